"""Groups of runs given by name, path or pattern."""

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory, find_run, missing_run_hints, runs_below

_MAGIC = frozenset("*?[")


def find_runs(
    wanted: Iterable[str], runs_dir: str | Path, bases: Sequence[Path] = (Path(),)
) -> list[RunDirectory]:
    """The runs of a group, each once, in the order of `wanted`; those of a pattern by name.

    wanted: names below `runs_dir`, paths, or patterns of either (`base-*`, `runs/base-?`).
    bases:  directories that relative paths are tried from, in order.
    Raises InputError if a run does not exist, or if nothing matches a pattern.
    """
    found: dict[Path, RunDirectory] = {}
    for entry in wanted:
        for run in _runs_of(entry, runs_dir, bases):
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def find_run_from(given: str, runs_dir: str | Path, bases: Sequence[Path]) -> RunDirectory:
    """`find_run`, with relative paths tried from several directories."""
    for base in bases:
        run = RunDirectory(base / given)
        if run.is_run:
            return run
    return find_run(given, runs_dir)


def _runs_of(entry: str, runs_dir: str | Path, bases: Sequence[Path]) -> list[RunDirectory]:
    """The runs that one entry names."""
    if not _MAGIC & set(entry) or RunDirectory(Path(entry)).is_run:
        return [find_run_from(entry, runs_dir, bases)]
    parent, pattern = str(Path(entry).parent), Path(entry).name
    if _MAGIC & set(parent):
        raise InputError(
            f"a pattern must be in the last part of a path, got {entry}",
            hints=["name the directory, as in `runs/base-*`"],
        )
    places = [Path(runs_dir)] if parent == "." else [base / parent for base in bases]
    for place in places:
        matching = [run for run in runs_below(place) if fnmatch.fnmatchcase(run.path.name, pattern)]
        if matching:
            return matching
    raise InputError(f"no run matches {entry}", hints=missing_run_hints(pattern.split("*")[0], runs_dir))
