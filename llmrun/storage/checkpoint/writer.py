"""Writing a checkpoint: every rank its files, rank 0 the commit.  No collectives: ranks meet in files.

    save_rank   each rank: its safetensors files, then a part report, all fsynced, in a hidden directory
    commit      rank 0: waits for all reports, reads them back, writes manifest and SHA256SUMS, fsyncs,
                renames once, fsyncs the parent; where a rank could not save, the hidden directory goes

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
"""Once one rank has failed, the others have this long to finish their files before these are removed."""

GivenUp = Callable[[], Mapping[int, CheckpointWriteError]]
"""The ranks that failed, where that is known by other ways than their reports: they may have no room for one."""


def save_rank(
    checkpoints_dir: Path, snapshot: StateSnapshot, rank: int, world: int, disk: Disk = DISK
) -> None:
    """Write this rank's files and its part report into the hidden directory of this save, fsynced.

    Raises CheckpointWriteError; what the rank wrote is then removed and a report says why.  The directory
    stays, as other ranks may be writing into it: rank 0 calls `discard` when none is.
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
    """This rank's two files, one after the other.

    Hashes and digests are computed beside, from the same memory: neither they nor the disk wait for each other.
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
    """Remove the hidden directory of a save that will not be committed; no rank writes into it any more."""
    # Removing is a courtesy: what stays behind is hidden, and swept before the next save.
    with suppress(OSError):
        remove_hidden(checkpoints_dir / temporary_name(snapshot.step, snapshot.attempt), disk)


def _make_if_missing(directory: Path, disk: Disk) -> None:
    """Make one directory that any rank may be the first to need; its parent has to exist."""
    with suppress(FileExistsError):
        disk.make_directory(directory)


def _stored(piece: TensorPiece) -> Stored:
    shape = piece.shape if piece.whole else (piece.values.size,)
    return Stored(piece.name, piece.dtype, shape, piece.values)


def _report_failure(
    directory: Path, save: Save, rank: int, failure: CheckpointWriteError, disk: Disk
) -> None:
    """Tell rank 0 at once, after making room; where even that fails rank 0 learns it by its time limit."""
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
    """Rank 0, after its own `save_rank`: make the checkpoint of all ranks' files, and return its directory.

    Waits at most `timeout_s` seconds for the other ranks, and not for one that has given up.  A sound
    checkpoint of this step that exists is kept; a damaged one is moved to `abandoned-<attempt>/`.
    confirm: called last before the final name is given; what it raises prevents that.
    Raises CheckpointWriteError; the hidden directory is then removed and no final name has changed.
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
        # The pair of the checks above, by the reader's own code, before anything has a final name.
        open_checkpoint(temporary)
        confirm()
        _name_finally(temporary, final, snapshot.attempt, disk)
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
        raise CheckpointWriteError(f"{checkpoint} was not committed: {error}") from error


def _rng_stored(snapshot: StateSnapshot) -> list[Stored]:
    arrays = {name: np.ascontiguousarray(values) for name, values in snapshot.rng.items()}
    return [
        Stored(name, name_of(values.dtype), snapshot.rng[name].shape, values.reshape(-1))
        for name, values in arrays.items()
    ]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _all_parts(directory: Path, save: Save, timeout_s: float, given_up: GivenUp) -> list[Part]:
    """The reports of all ranks, waited for by looking at the directory.

    Raises CheckpointWriteError where a rank failed: only when the others are done, or their time is up.
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
        # A twentieth of the wait so far: looking seldom must not prolong the save.
        time.sleep(min(0.001 + (time.monotonic() - begun_s) / 20, _POLL_SECONDS_MAX))
    failure = failure or _worst(list(given_up().values()))
    if failure is not None:
        raise failure
    return [parts[rank] for rank in range(save.world)]


def _reported(directory: Path, save: Save, failure: CheckpointWriteError | None) -> set[int]:
    """The ranks whose reports are there.  A listing: network file systems remember that a name was absent."""
    try:
        found = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        if failure is not None:
            raise failure from None
        raise
    return {rank for rank in range(save.world) if report_name(rank) in found}


def _first_failure(parts: dict[int, Part]) -> CheckpointWriteError | None:
    """Why the first rank that failed could not write, by the reports."""
    said = [part.failure for _, part in sorted(parts.items()) if part.failure is not None]
    return _worst([CheckpointWriteError(message, code=code) for message, code in said])


def _worst(failures: Sequence[CheckpointWriteError]) -> CheckpointWriteError | None:
    """The first of some failures; a full disk goes before what may come of it."""
    return next((failure for failure in failures if failure.disk_full), failures[0] if failures else None)


def _late(save: Save, parts: dict[int, Part], timeout_s: float) -> CheckpointWriteError:
    late = next(rank for rank in range(save.world) if rank not in parts)
    return CheckpointWriteError(
        f"{step_name(save.step)} was not committed: rank {late} of {save.world} "
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


def _name_finally(temporary: Path, final: Path, attempt: str, disk: Disk) -> None:
    if final.exists():
        if final.is_dir() and not verify_files(final):
            remove_hidden(temporary, disk)
            return
        move_into(final.parent / abandoned_name(attempt), final, disk)
    commit_directory(temporary, final, disk)
