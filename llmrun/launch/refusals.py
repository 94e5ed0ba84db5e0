"""What changed between a run's recorded segment and now: fingerprint, repository, architecture; and what is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrun.config.differences import Absent, leaf_differences
from llmrun.config.keys import shown_key
from llmrun.config.resolve import Resolved
from llmrun.errors import RefusedError
from llmrun.launch.preflight import Preflight
from llmrun.launch.select_checkpoint import SegmentStart
from llmrun.provenance.code import imported_of
from llmrun.provenance.fingerprint import PARTS, Change, Fingerprint, compare
from llmrun.provenance.git_command import GIT_TIMEOUT_S, Limits
from llmrun.provenance.git_difference import RepositoryDifference, compare_repository
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord, Segment
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.text import command

NAMES_SHOWN = 8
"""Files, or fields of one part, that a message names; the rest are counted."""


@dataclass(frozen=True)
class ChangeToAllow:
    """One change that a resume must be allowed to make.  part: the kind for `--allow`."""

    part: str
    message: str


@dataclass(frozen=True)
class RunChanges:
    """What changed since the segment whose settings a checkpoint belongs to.

    differences:  must be allowed, part by part.
    not_compared: reasons why the repository could not be compared; they refuse nothing.
    config:       all fields that differ from the run's own config, operational ones included.
    """

    differences: Sequence[ChangeToAllow]
    not_compared: Sequence[str]
    config: Sequence[Change]

    def for_record(self) -> list[str]:
        """All changes as lines of run.json."""
        lines = [
            *(f"{difference.part}: {difference.message}" for difference in self.differences),
            *(f"code: {line}" for line in self.not_compared),
            *(f"config: {change}" for change in self.config),
        ]
        return list(dict.fromkeys(lines))


def reference_segment(record: RunRecord, step: int) -> Segment:
    """The segment whose settings a checkpoint at `step` belongs to: the last one that started at `step` or before.

    A segment that started at this checkpoint was allowed to by the user, so its settings count.
    """
    return [segment for segment in record.segments if segment.from_step <= step][-1]


def find_changes(
    record: RunRecord, reference: Segment | None, preflight: Preflight, check: Callable[[], None]
) -> RunChanges:
    """Compare this preflight with the segment `reference`; None: with the run as it was made.

    check: called several times a second; what it raises ends the comparison.
    """
    if reference is None:
        old, old_git = Fingerprint.of_json(record.fingerprint), record.git
    else:
        old, old_git = Fingerprint(record.preimages_of(reference)), reference.git
    repository = (
        compare_repository(old_git, preflight.snapshot.git, Limits(GIT_TIMEOUT_S, check))
        if old_git
        else RepositoryDifference()
    )
    fields = [
        ChangeToAllow(change.part, str(replace(change, key=shown_key(change.key))))
        for change in compare(old, preflight.fingerprint)
    ]
    code = [ChangeToAllow("code", line) for line in repository_lines(repository, preflight.source_files)]
    config = preflight.resolved.config.model_dump(mode="json", by_alias=True)
    return RunChanges(
        sorted([*fields, *code], key=lambda difference: PARTS.index(difference.part)),
        [f"uncommitted changes cannot be compared: {reason}" for reason in repository.unknown],
        changed_fields(record.config, config),
    )


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """The fields that differ between two full config dumps.

    A field that only one of them has came or went with a version of llmrun: the user did not change it.
    """
    return [
        Change("config", key, before, after)
        for key, before, after in leaf_differences(old, new)
        if not isinstance(before, Absent) and not isinstance(after, Absent)
    ]


def refuse_unless_allowed(
    differences: Sequence[ChangeToAllow],
    allow: frozenset[str],
    command: str,
    step: int,
    source_diff: Sequence[str] = (),
) -> list[str]:
    """The kinds of change that are there and allowed, in order.

    command:     what the user would type again, without `--allow`.
    source_diff: how the sources of the user's own model differ, shown if the code is refused.
    Raises RefusedError with every difference that is not allowed.
    """
    refused = [difference for difference in differences if difference.part not in allow]
    if not refused:
        return [part for part in PARTS if any(difference.part == part for difference in differences)]
    parts = [part for part in PARTS if any(difference.part == part for difference in refused)]
    allowing = " ".join(f"--allow {part}" for part in PARTS if part in parts or part in allow)
    hints = [
        "undo the change to continue exactly",
        f"`{command} {allowing}` accepts the change and records it",
    ]
    shown = source_diff if "code" in parts else ()
    if len(refused) == 1:
        lines = [f"{parts[0]} changed since step {step}", *shown]
        raise RefusedError(refused[0].message, caused_by=lines, hints=hints)
    lines = [line for part in parts for line in part_lines(part, refused)]
    raise RefusedError(
        f"{' and '.join(parts)} changed since step {step}", caused_by=[*lines, *shown], hints=hints
    )


def part_lines(part: str, differences: Sequence[ChangeToAllow]) -> list[str]:
    """The lines of one part; what exceeds NAMES_SHOWN is counted."""
    lines = [f"{part}: {difference.message}" for difference in differences if difference.part == part]
    more = [f"{part}: {len(lines) - NAMES_SHOWN} more"] if len(lines) > NAMES_SHOWN else []
    return lines[:NAMES_SHOWN] + more


def repository_lines(difference: RepositoryDifference, source_files: Mapping[str, str]) -> list[str]:
    """How the repository differs: commit, uncommitted changes, how many files, which of them a worker imports."""
    if not difference.refuses:
        return []
    if difference.roots is not None:
        roots = " -> ".join(short_commit(root) for root in difference.roots)
        return [f"the repository around the working directory is another one: root commit {roots}"]
    heads = []
    if difference.commits is not None:
        heads.append(f"git commit: {' -> '.join(map(short_commit, difference.commits))}")
    heads += difference.submodules
    if not heads:
        heads = ["uncommitted changes differ"]
    return ["; ".join([*heads, files_line(difference.files, source_files)])]


def short_commit(commit: str | None) -> str:
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
    """Up to NAMES_SHOWN names, then a count."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def check_origin_of_checkpoint(run: RunDirectory, record: RunRecord, start: SegmentStart) -> None:
    """Check that the checkpoint was written under one of the run's fingerprints.  Raises RefusedError."""
    if start.checkpoint is None:
        return
    manifest = start.checkpoint.manifest
    known = {segment.fingerprint: segment.parts for segment in record.segments}
    known[record.fingerprint["digest"]] = record.fingerprint["parts"]
    if known.get(manifest.fingerprint, manifest.parts) != dict(manifest.parts):
        raise RefusedError(
            f"the manifest of {start.name} contradicts run.json: same fingerprint, other parts",
            where=str(start.checkpoint.path),
            hints=["restore the checkpoint from a copy, or resume from another one: `--from STEP`"],
        )
    if manifest.fingerprint not in known:
        raise RefusedError(
            f"{start.name} was not written by {run.name}: no segment of the run has its fingerprint",
            where=str(start.checkpoint.path),
            hints=["remove the foreign checkpoint, or resume from another one: `--from STEP`"],
        )


TENSORS_SHOWN = 4


def refuse_other_architecture(
    checkpoint: Checkpoint, resolved: Resolved, old_config: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint whose parameters are not those of the model; `--allow` does not apply.

    old_config: the full config that the checkpoint was written under.
    Raises RefusedError with what differs and the command that migrates the state.
    """
    wanted = resolved.model.parameters
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
    fields = [str(change) for change in changed_fields({"model": old_config["model"]}, {"model": model})]
    more = [f"{len(lines) - TENSORS_SHOWN} more tensors"] if len(lines) > TENSORS_SHOWN else []
    migrate = f"{command('llmrun', 'migrate', checkpoint.path)} --config CONFIG --script FILE --out DIR"
    raise RefusedError(
        f"{checkpoint.path.name} is a state of another architecture: "
        + (", ".join(fields) or f"{len(lines)} tensors differ"),
        where=str(checkpoint.path),
        caused_by=[*lines[:TENSORS_SHOWN], *more],
        hints=[
            "undo the change to continue exactly",
            f"`{migrate}` makes a new run of it, with a script that maps each tensor (docs/migration.md)",
        ],
    )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"
