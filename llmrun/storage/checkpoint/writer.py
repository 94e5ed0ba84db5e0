"""Writes a checkpoint: each rank its files, rank 0 the commit.  No collectives: ranks communicate through files.

    save_rank   each rank: its safetensors files, then a part report, all fsynced, in a hidden directory
    commit      rank 0: waits for all reports, reads them back, writes manifest and SHA256SUMS, fsyncs,
                renames once, fsyncs the parent; if a rank failed, removes the hidden directory instead

A rank that dies leaves only a hidden directory, which `sweep` removes before the next save and at the next start.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.storage.checkpoint.errors import CheckpointDamage, CheckpointWriteError, write_error
from llmrun.storage.checkpoint.layout import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    RNG,
    SUMS,
    TRAINER,
    abandoned_name,
    report_name,
    shard_name,
    step_name,
    temporary_name,
)
from llmrun.storage.checkpoint.manifest import CheckpointManifest, FileEntry, render_manifest, render_sums
from llmrun.storage.checkpoint.parts import (
    Part,
    Save,
    StateSnapshot,
    TensorPiece,
    merge_parts,
    part_tensor,
    read_part,
    write_part,
)
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.checkpoint.retention import move_into, remove_hidden
from llmrun.storage.checkpoint.safetensors import Stored, contents_of, name_of, write_tensors
from llmrun.storage.checkpoint.verification import verify_files
from llmrun.storage.durable import DISK, Disk, commit_directory, sha256_over, write_new, write_unhashed
from llmrun.storage.strict_json import WrongValue

__all__ = ["CheckpointWriteError", "StateSnapshot", "TensorPiece", "commit", "save_rank"]

_POLL_SECONDS_MAX = 0.1

GRACE_S = 10.0
"""Once one rank has failed, the others have this long to finish before their files are removed."""

GivenUp = Callable[[], Mapping[int, CheckpointWriteError]]
"""Returns the ranks known to have failed by other means than their reports, for which a disk may have no room."""


def save_rank(
    checkpoints_dir: Path, snapshot: StateSnapshot, rank: int, world: int, disk: Disk = DISK
) -> None:
    """Write this rank's files and its part report into the hidden directory of this save, fsynced.

    Raises CheckpointWriteError; the rank's files are then removed, and its report has the reason.  The directory
    stays, because other ranks may be writing into it: rank 0 calls `discard` when all have stopped.
    """
    name = step_name(snapshot.step)
    directory = checkpoints_dir / temporary_name(snapshot.step, snapshot.attempt)
    save = Save(snapshot.step, snapshot.attempt, world)
    try:
        _make_if_missing(checkpoints_dir, disk)
        _make_if_missing(directory, disk)
        write_part(directory, save, _write_files(directory, save, snapshot, rank, disk), disk)
    except OSError as error:
        failure = write_error(name, error, rank)
        with suppress(OSError):
            _report_failure(directory, save, rank, failure, disk)
        raise failure from error


def _write_files(directory: Path, save: Save, snapshot: StateSnapshot, rank: int, disk: Disk) -> Part:
    """Write this rank's two files, one after the other.

    Hashes and digests are computed meanwhile on other threads, from the same memory.
    """
    pieces = (*snapshot.model, *snapshot.optimizer)
    contents = {
        shard_name(group, rank, save.world): contents_of(
            [_stored(piece) for piece in held if piece.values.size > 0]
        )
        for group, held in ((MODEL, snapshot.model), (OPTIMIZER, snapshot.optimizer))
    }
    with ThreadPoolExecutor(1 + len(contents)) as pool:
        sums = {file: pool.submit(sha256_over, content) for file, content in contents.items()}
        digests = pool.submit(snapshot.digests, pieces)
        n_bytes = {
            file: write_unhashed(directory / file, content, disk) for file, content in contents.items()
        }
        files = {file: FileEntry(n_bytes[file], sums[file].result()) for file in contents}
        tensors = [part_tensor(*pair) for pair in zip(pieces, digests.result(), strict=True)]
    return Part(rank, files, tuple(tensors))


def discard(checkpoints_dir: Path, snapshot: StateSnapshot, disk: Disk = DISK) -> None:
    """Remove the hidden directory of a save that will not be committed, after all ranks have stopped writing."""
    # Best effort: what is left is hidden, and swept before the next save.
    with suppress(OSError):
        remove_hidden(checkpoints_dir / temporary_name(snapshot.step, snapshot.attempt), disk)


def _make_if_missing(directory: Path, disk: Disk) -> None:
    """Make one directory that several ranks need; its parent must exist."""
    with suppress(FileExistsError):
        disk.make_directory(directory)


def _stored(piece: TensorPiece) -> Stored:
    shape = piece.shape if piece.whole else (piece.values.size,)
    return Stored(piece.name, piece.dtype, shape, piece.values)


def _report_failure(
    directory: Path, save: Save, rank: int, failure: CheckpointWriteError, disk: Disk
) -> None:
    """Remove the rank's files to make room, then write its failure; without a report rank 0 waits until its timeout."""
    for group in (MODEL, OPTIMIZER):
        disk.remove_file(directory / shard_name(group, rank, save.world))
    write_part(directory, save, Part(rank, {}, (), (failure.message, failure.errno)), disk)


def commit(
    checkpoints_dir: Path,
    snapshot: StateSnapshot,
    world: int,
    timeout_s: float,
    disk: Disk = DISK,
    given_up: GivenUp = dict,
    confirm: Callable[[], None] = lambda: None,
) -> Path:
    """Commit the files of all ranks as a checkpoint, and return its directory.  Rank 0 only, after its `save_rank`.

    timeout_s: how long to wait for the reports of the other ranks, except those in `given_up`.
    confirm:   called last before the checkpoint gets its name; an exception that it raises prevents that.
    A sound checkpoint of this step that exists is kept; a damaged one is moved to `abandoned-<attempt>/`.
    Raises CheckpointWriteError; the hidden directory is then removed and no other name has changed.
    """
    temporary = checkpoints_dir / temporary_name(snapshot.step, snapshot.attempt)
    final = checkpoints_dir / step_name(snapshot.step)
    with _discarded_on_failure(checkpoints_dir, snapshot, disk), _typed_errors(final.name):
        save = Save(snapshot.step, snapshot.attempt, world)
        parts = _all_parts(temporary, save, timeout_s, given_up)
        files = {RNG: FileEntry(*write_tensors(temporary / RNG, _rng_stored(snapshot), disk))}
        files[TRAINER] = FileEntry(*write_new(temporary / TRAINER, [_json(snapshot.trainer)], disk))
        for part in parts:
            files |= part.files
        _write_roots(temporary, _manifest(snapshot, files, parts, world), disk)
        for rank in range(world):
            disk.remove_file(temporary / report_name(rank))
        # The reader's checks, before the checkpoint gets its name.
        open_checkpoint(temporary)
        confirm()
        _rename_to_final(temporary, final, snapshot.attempt, disk)
    return final


@contextmanager
def _discarded_on_failure(checkpoints_dir: Path, snapshot: StateSnapshot, disk: Disk) -> Iterator[None]:
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            discard(checkpoints_dir, snapshot, disk)


@contextmanager
def _typed_errors(checkpoint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(checkpoint, error) from error
    except (WrongValue, CheckpointDamage) as error:
        raise CheckpointWriteError(f"cannot commit {checkpoint}: {error}") from error


def _rng_stored(snapshot: StateSnapshot) -> list[Stored]:
    arrays = {name: np.ascontiguousarray(values) for name, values in snapshot.rng.items()}
    return [
        Stored(name, name_of(values.dtype), snapshot.rng[name].shape, values.reshape(-1))
        for name, values in arrays.items()
    ]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _all_parts(directory: Path, save: Save, timeout_s: float, given_up: GivenUp) -> list[Part]:
    """Wait for the reports of all ranks.

    Raises CheckpointWriteError if a rank failed, once the others are done or their time is up.
    """
    parts: dict[int, Part] = {}
    failure: CheckpointWriteError | None = None
    begun_s = time.monotonic()
    deadline = begun_s + timeout_s
    while len(parts.keys() | given_up().keys()) < save.world:
        failure = failure or _worst(list(given_up().values()))
        for rank in _reported(directory, save, failure) - parts.keys():
            parts[rank] = read_part(directory, save, rank)
        failure = failure or _first_failure(parts)
        if failure is not None:
            deadline = min(deadline, time.monotonic() + GRACE_S)
        if time.monotonic() > deadline and len(parts) < save.world:
            raise failure or _late(save, parts, timeout_s)
        # A twentieth of the wait so far, so that polling prolongs a save by at most 5 %.
        time.sleep(min(0.001 + (time.monotonic() - begun_s) / 20, _POLL_SECONDS_MAX))
    failure = failure or _worst(list(given_up().values()))
    if failure is not None:
        raise failure
    return [parts[rank] for rank in range(save.world)]


def _reported(directory: Path, save: Save, failure: CheckpointWriteError | None) -> set[int]:
    """The ranks that have reported.  Listed, because network file systems cache that a name was absent."""
    try:
        found = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        if failure is not None:
            raise failure from None
        raise
    return {rank for rank in range(save.world) if report_name(rank) in found}


def _first_failure(parts: dict[int, Part]) -> CheckpointWriteError | None:
    """The failure in the reports to raise, if there is one."""
    failures = [part.failure for _, part in sorted(parts.items()) if part.failure is not None]
    return _worst([CheckpointWriteError(message, code=code) for message, code in failures])


def _worst(failures: Sequence[CheckpointWriteError]) -> CheckpointWriteError | None:
    """The first failure that is a full disk, which may have caused the others; else the first one; None if none."""
    return next((failure for failure in failures if failure.disk_full), failures[0] if failures else None)


def _late(save: Save, parts: dict[int, Part], timeout_s: float) -> CheckpointWriteError:
    late = next(rank for rank in range(save.world) if rank not in parts)
    return CheckpointWriteError(
        f"cannot commit {step_name(save.step)}: rank {late} of {save.world} "
        f"did not finish writing within {timeout_s:g} s"
    )


def _manifest(
    snapshot: StateSnapshot, files: dict[str, FileEntry], parts: Sequence[Part], world: int
) -> CheckpointManifest:
    return CheckpointManifest(
        step=snapshot.step,
        tokens=snapshot.tokens,
        fingerprint=snapshot.fingerprint,
        parts=snapshot.parts,
        chain=snapshot.chain,
        files=dict(sorted(files.items())),
        tensors=merge_parts(parts, world),
    )


def _write_roots(directory: Path, manifest: CheckpointManifest, disk: Disk) -> None:
    _, manifest_sha256 = write_new(directory / MANIFEST, [render_manifest(manifest)], disk)
    sums = {name: entry.sha256 for name, entry in manifest.files.items()} | {MANIFEST: manifest_sha256}
    write_new(directory / SUMS, [render_sums(sums)], disk)


def _rename_to_final(temporary: Path, final: Path, attempt: str, disk: Disk) -> None:
    if final.exists():
        if final.is_dir() and not verify_files(final):
            remove_hidden(temporary, disk)
            return
        move_into(final.parent / abandoned_name(attempt), final, disk)
    commit_directory(temporary, final, disk)
