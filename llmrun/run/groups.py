"""Groups of runs, as a user names them: by name, path or pattern."""

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory, find_run, near_runs, runs_below

_MAGIC = frozenset("*?[")


def find_runs(
    wanted: Iterable[str], runs_dir: str | Path, bases: Sequence[Path] = (Path(),)
) -> list[RunDirectory]:
    """The runs of a group, each once, in the order of their names below each entry.

    wanted: names below `runs_dir`, paths, or patterns of either (`base-*`, `runs/base-?`).
    bases:  directories that a relative path may start from, in order.
    Raises InputError where one is not there, or where nothing fits a pattern.
    """
    found: dict[Path, RunDirectory] = {}
    for entry in wanted:
        for run in _runs_of(entry, runs_dir, bases):
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def find_run_from(given: str, runs_dir: str | Path, bases: Sequence[Path]) -> RunDirectory:
    """`find_run`, with relative paths that may start from several directories."""
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
            f"{entry}: a pattern is allowed in the last part of a path only",
            hints=["name the directory, as in `runs/base-*`"],
        )
    places = [Path(runs_dir)] if parent == "." else [base / parent for base in bases]
    for place in places:
        fitting = [run for run in runs_below(place) if fnmatch.fnmatchcase(run.path.name, pattern)]
        if fitting:
            return fitting
    raise InputError(f"no run fits {entry}", hints=near_runs(pattern.split("*")[0], runs_dir))
