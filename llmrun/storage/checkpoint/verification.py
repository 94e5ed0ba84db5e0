"""Verifies checkpoints: reads every byte of a checkpoint, and finds the newest sound one of a run."""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmrun.machine import cpus_usable
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.files import opened, size_of
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.reader import (
    OTHER_SHA256,
    Checkpoint,
    check_directory,
    name_damages,
    open_checkpoint,
    read_sums,
)
from llmrun.storage.durable import BLOCK_BYTES

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in total), from any thread, one call at a time."""

THREADS_MAX = 8


class _ReadMeter:
    """Adds up the bytes that several threads have read, and reports them."""

    def __init__(
        self, total_bytes: int, progress: Progress | None, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = total_bytes
        self._progress, self._should_stop = progress, should_stop
        self.is_cancelled = False

    def add(self, n_bytes: int) -> None:
        if self._should_stop is not None and self._should_stop():
            self.is_cancelled = True
        if self._progress is None:
            return
        with self._lock:
            self._done_bytes += n_bytes
            self._progress(self._done_bytes, self._total_bytes)


RecordCheck = Callable[[Checkpoint], Sequence[Damage]]
"""Compares a checkpoint with what its run recorded of the same step; () if nothing contradicts it."""


def verify_files(path: Path, progress: Progress | None = None, threads: int | None = None) -> list[Damage]:
    """All damage of a checkpoint directory; [] if it is sound.

    Reads every file once and compares its sha256, then checks the structure.
    threads: each needs 1 MiB; None: one per core, at most 8.
    Raises InputError if there is no such directory.
    """
    try:
        open_verified(path, progress, threads)
    except CheckpointDamage as error:
        return list(error.damages)
    return []


def open_verified(
    path: Path,
    progress: Progress | None = None,
    threads: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Checkpoint:
    """Open a checkpoint after reading every byte of it, as `verify_files` does.

    should_stop: asked after every block; once it is true the rest is not read, and the result must not be trusted.
    Raises CheckpointDamage with all damage, InputError if there is no such directory.
    """
    check_directory(path)
    damages = _file_damages(path, progress, threads, should_stop)
    if damages:
        raise CheckpointDamage(damages)
    return open_checkpoint(path)


def _file_damages(
    path: Path, progress: Progress | None, threads: int | None, should_stop: Callable[[], bool] | None
) -> list[Damage]:
    sums = read_sums(path)
    damages = name_damages(path, sums)
    named = {damage.file for damage in damages}
    if "." in named:  # the directory cannot be listed
        return damages
    present = [name for name in sums if name not in named]
    meter = _ReadMeter(sum(_bytes_or_0(path / name) for name in present), progress, should_stop)
    with ThreadPoolExecutor(threads or min(THREADS_MAX, cpus_usable())) as pool:
        checked = pool.map(lambda name: _check_file(path / name, sums[name], meter), present)
        try:
            damages += [damage for damage in checked if damage is not None]
        except BaseException:
            meter.is_cancelled = True  # otherwise leaving the pool would wait for large files
            raise
    return damages


def _bytes_or_0(path: Path) -> int:
    """The size of a file, for the progress alone; 0 if it cannot be told: reading the file reports the damage."""
    try:
        return size_of(path)
    except CheckpointDamage:
        return 0


def _check_file(path: Path, sha256: str, meter: _ReadMeter) -> Damage | None:
    try:
        found = _sha256_of(path, meter)
    except CheckpointDamage as error:
        return error.damages[0]
    if found == sha256 or meter.is_cancelled:
        return None
    return Damage(path.parent.name, path.name, OTHER_SHA256, "checksum")


def _sha256_of(path: Path, meter: _ReadMeter) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with opened(path) as descriptor:
        while not meter.is_cancelled and (got := os.readv(descriptor, [block])):
            digest.update(block[:got])
            meter.add(got)
    return digest.hexdigest()


def open_checked(
    path: Path,
    progress: Progress | None = None,
    record_check: RecordCheck | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Checkpoint:
    """Open a checkpoint after reading every byte of it and comparing it with what its run recorded.

    Raises CheckpointDamage if its files are damaged or hold another state than the recorded one, InputError if there
    is no such directory.
    """
    checkpoint = open_verified(path, progress, should_stop=should_stop)
    damages = () if record_check is None else record_check(checkpoint)
    if damages:
        raise CheckpointDamage(damages)
    return checkpoint


def newest_sound(
    checkpoints_dir: Path,
    progress: Progress | None = None,
    step_max: int | None = None,
    record_check: RecordCheck | None = None,
) -> tuple[Checkpoint | None, list[Damage]]:
    """The newest sound checkpoint of a run, at or below `step_max`, and the damage of all newer ones.

    record_check: `run.record_check.record_check_of` the run; None compares nothing with the run's records.
    Returns (None, []) if there is no checkpoint, (None, damages) if none is sound.
    """
    damages: list[Damage] = []
    for step in reversed(steps_in(checkpoints_dir)):
        if step_max is not None and step > step_max:
            continue
        try:
            return open_checked(checkpoints_dir / step_name(step), progress, record_check), damages
        except CheckpointDamage as error:
            damages += error.damages
    return None, damages
