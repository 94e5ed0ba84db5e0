"""What differs between a run as it was and as it would go on: fingerprint, repository, architecture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrun.config.keys import shown_key
from llmrun.config.resolve import Resolved
from llmrun.core.model.parameters import parameter_shapes
from llmrun.errors import RefusedError
from llmrun.launch.preflight import Preflight
from llmrun.provenance.code import imported_of
from llmrun.provenance.fingerprint import PARTS, Fingerprint, compare, show
from llmrun.provenance.git import GIT_S
from llmrun.provenance.git_command import Limits
from llmrun.provenance.git_difference import RepositoryDifference, compare_repository
from llmrun.run.record import RunRecord, Segment
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.text import command, cut, listed

NAMED_MAX = 8
"""Files and fields that one message names; the rest are counted."""


@dataclass(frozen=True)
class RunDifference:
    """One thing that changed.  part: what `--allow` would allow; says: a readable line."""

    part: str
    message: str


def reference_of(record: RunRecord, step: int) -> Segment:
    """The segment whose settings a checkpoint at `step` goes on with: the last one that stood there or before.

    A segment that started at this checkpoint was allowed to by the user, so its settings hold.
    """
    return [segment for segment in record.segments if segment.from_step <= step][-1]


def fingerprint_of_segment(record: RunRecord, segment: Segment) -> Fingerprint:
    """The fingerprint that a segment ran under."""
    return Fingerprint(record.preimages_of(segment))


def repository_difference(
    old_git: Mapping[str, Any], preflight: Preflight, check: Callable[[], None]
) -> RepositoryDifference:
    """How the repository differs from the one that a segment ran from.

    check: called several times a second; what it raises ends the comparison.
    """
    if not old_git:
        return RepositoryDifference()
    return compare_repository(old_git, preflight.snapshot.git, Limits(GIT_S, check))


def differences_from(
    old: Fingerprint, repository: RepositoryDifference, preflight: Preflight
) -> list[RunDifference]:
    """Everything that differs between how a segment ran and `subject`, part by part."""
    found = [
        RunDifference(change.part, str(replace(change, key=shown_key(change.key))))
        for change in compare(old, preflight.fingerprint)
    ]
    git = [RunDifference("code", line) for line in git_lines(repository, preflight.source_files)]
    return sorted([*found, *git], key=lambda difference: PARTS.index(difference.part))


def git_lines(difference: RepositoryDifference, source_files: Mapping[str, str]) -> list[str]:
    """How the repository differs: commit, uncommitted changes, how many files, which a worker imports."""
    if not difference.refuses:
        return []
    if difference.roots is not None:
        roots = " -> ".join(short(root) for root in difference.roots)
        return [f"the repository around the working directory is another one: root commit {roots}"]
    heads = (
        [] if difference.commits is None else [f"git commit: {' -> '.join(map(short, difference.commits))}"]
    )
    heads += difference.submodules
    if not heads:
        heads = ["uncommitted changes are not the same"]
    return ["; ".join([*heads, files_line(difference.files, source_files)])]


def not_compared(difference: RepositoryDifference) -> list[str]:
    """What could not be compared, one line each reason."""
    return [f"uncommitted changes cannot be compared: {why}" for why in difference.unknown]


def short(commit: str | None) -> str:
    """A commit in twelve digits."""
    return commit[:12] if commit else "none"


def files_line(names: Sequence[str] | None, source_files: Mapping[str, str]) -> str:
    """`3 files differ, the worker imports 1 of them: model/net.py`."""
    if names is None:
        return "which files differ cannot be determined here"
    imported = imported_of(list(names), source_files)
    count = f"{len(names)} file differs" if len(names) == 1 else f"{len(names)} files differ"
    if not names:
        return f"{count} in content"
    if not imported:
        return f"{count}, the worker imports none of them: {enumerate_names(names)}"
    return f"{count}, the worker imports {len(imported)} of them: {enumerate_names(imported)}"


def enumerate_names(names: Sequence[str]) -> str:
    """Up to eight names, then a count."""
    return listed(names, NAMED_MAX)


def refuse_unless_allowed(
    differences: Sequence[RunDifference], allow: frozenset[str], command: str, step: int
) -> list[str]:
    """The kinds of change that are there and allowed, in order.

    command: what the user would type again, without `--allow`.
    Raises RefusedError that shows every difference not allowed.
    """
    refused = [difference for difference in differences if difference.part not in allow]
    if not refused:
        return [part for part in PARTS if any(difference.part == part for difference in differences)]
    parts = [part for part in PARTS if any(difference.part == part for difference in refused)]
    allowing = " ".join(f"--allow {part}" for part in PARTS if part in parts or part in allow)
    hints = [
        "undo the change to continue exactly",
        f"`{command} {allowing}` goes on with it, and the run records it",
    ]
    if len(refused) == 1:
        raise RefusedError(
            refused[0].message, caused_by=[f"{parts[0]} changed since step {step}"], hints=hints
        )
    lines = [line for part in parts for line in part_lines(part, refused)]
    raise RefusedError(f"{' and '.join(parts)} changed since step {step}", caused_by=lines, hints=hints)


def part_lines(part: str, differences: Sequence[RunDifference]) -> list[str]:
    """The lines of one part, cut after eight."""
    messages = [difference.message for difference in differences if difference.part == part]
    return [f"{part}: {line}" for line in cut(messages, NAMED_MAX)]


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], key: str = "") -> list[str]:
    """Fields that differ between two full config dumps, as `key: old -> new` lines.

    A field that only one of them has came or went with a version of llmrun: nobody changed it.
    """
    lines: list[str] = []
    for name in sorted({*old} & {*new}):
        dotted = f"{key}.{name}" if key else name
        before, after = old[name], new[name]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changed_fields(before, after, dotted)
        elif before != after:
            lines.append(f"{dotted}: {show(before)} -> {show(after)}")
    return lines


SHOWN_MAX = 4


def refuse_other_architecture(
    checkpoint: Checkpoint, resolved: Resolved, old_config: Mapping[str, Any]
) -> None:
    """A state fits one architecture only, and no permission changes that.

    old_config: the full config that the checkpoint was written under.
    Raises RefusedError that shows what differs and points to `llmrun migrate`.
    """
    wanted = parameter_shapes(resolved.shape)
    found = {
        name: entry.shape for name, entry in checkpoint.manifest.tensors.items() if entry.kind == "parameter"
    }
    lines = [
        f"{name}: {_shown(found.get(name))} in the checkpoint, {_shown(wanted.get(name))} in the model"
        for name in [*wanted, *(name for name in found if name not in wanted)]
        if found.get(name) != wanted.get(name)
    ]
    if not lines:
        return
    model = resolved.config.model_dump(mode="json", by_alias=True)["model"]
    fields = changed_fields(old_config["model"], model, "model")
    raise RefusedError(
        f"{checkpoint.path.name} is a state of another architecture: "
        + (", ".join(fields) or f"{len(lines)} tensors differ"),
        where=str(checkpoint.path),
        caused_by=cut(lines, SHOWN_MAX, "more tensors"),
        hints=[
            "undo the change to continue exactly",
            (
                f"`{command('llmrun', 'migrate', checkpoint.path)} --config CONFIG --script FILE --out DIR` makes a new run of it, "
                "by a script that says what becomes of each tensor (docs/migration.md)"
            ),
        ],
    )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"
