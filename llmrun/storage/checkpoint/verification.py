"""Reads every byte of a checkpoint (sha256 of all files, several at a time), and finds the newest sound one."""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmrun.machine import cpus_usable
from llmrun.storage.checkpoint.errors import CheckpointDamage, Damage
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.reader import (
    Checkpoint,
    check_directory,
    names_amiss,
    open_checkpoint,
    read_sums,
)
from llmrun.storage.checkpoint.regular_file import opened, size_of
from llmrun.storage.durable import BLOCK_BYTES

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all), from any thread, one call at a time."""

THREADS_MAX = 8


class _Meter:
    """Adds up what several threads have read."""

    def __init__(
        self, total_bytes: int, progress: Progress | None, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = total_bytes
        self._progress, self._should_stop = progress, should_stop
        self.is_abandoned = False

    def add(self, n_bytes: int) -> None:
        if self._should_stop is not None and self._should_stop():
            self.is_abandoned = True
        if self._progress is None:
            return
        with self._lock:
            self._done_bytes += n_bytes
            self._progress(self._done_bytes, self._total_bytes)


ForecastKeeper = Callable[[Checkpoint], Sequence[Damage]]
"""Says in what a checkpoint is not the state that was recorded; () if nothing contradicts it."""


def verify_files(path: Path, progress: Progress | None = None, threads: int | None = None) -> list[Damage]:
    """Everything that is wrong with a checkpoint directory; [] means sound.

    Reads every file once and compares its sha256, then checks the structure.  Memory: a block of 1 MiB
    for each of `threads` (default: the cores, at most 8).
    Raises InputError where there is no such directory.
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

    should_stop: asked after every block; once it is true the rest is not read, and the caller must not trust the result.
    Raises CheckpointDamage with everything that is wrong, InputError where there is no such directory.
    """
    check_directory(path)
    damages = _unsound_files(path, progress, threads, should_stop)
    if damages:
        raise CheckpointDamage(damages)
    return open_checkpoint(path)


def _unsound_files(
    path: Path, progress: Progress | None, threads: int | None, should_stop: Callable[[], bool] | None
) -> list[Damage]:
    sums = read_sums(path)
    damages = names_amiss(path, sums)
    named = {damage.file for damage in damages}
    if "." in named:  # the directory itself cannot be listed
        return damages
    present = [name for name in sums if name not in named]
    meter = _Meter(sum(_bytes_or_0(path / name) for name in present), progress, should_stop)
    with ThreadPoolExecutor(threads or min(THREADS_MAX, cpus_usable())) as pool:
        checked = pool.map(lambda name: _check_file(path / name, sums[name], meter), present)
        try:
            damages += [damage for damage in checked if damage is not None]
        except BaseException:
            meter.is_abandoned = True  # or leaving the pool would wait until large files are read
            raise
    return damages


def _bytes_or_0(path: Path) -> int:
    """The size of a file, for the progress alone: what is wrong with it shows when it is read."""
    try:
        return size_of(path)
    except CheckpointDamage:
        return 0


def _check_file(path: Path, sha256: str, meter: _Meter) -> Damage | None:
    try:
        found = _sha256_of(path, meter)
    except CheckpointDamage as error:
        return error.damages[0]
    if found == sha256 or meter.is_abandoned:
        return None
    return Damage(path.parent.name, path.name, "has another sha256 than SHA256SUMS states")


def _sha256_of(path: Path, meter: _Meter) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK_BYTES))
    with opened(path) as descriptor:
        while not meter.is_abandoned and (got := os.readv(descriptor, [block])):
            digest.update(block[:got])
            meter.add(got)
    return digest.hexdigest()


def open_judged(
    path: Path,
    progress: Progress | None = None,
    judge: ForecastKeeper | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Checkpoint:
    """Open a checkpoint after reading every byte of it and holding it against what its run recorded.

    Raises CheckpointDamage if its files are damaged or it is another state than the recorded one, InputError
    if there is no such directory.
    """
    checkpoint = open_verified(path, progress, should_stop=should_stop)
    damages = () if judge is None else judge(checkpoint)
    if damages:
        raise CheckpointDamage(damages)
    return checkpoint


def newest_sound(
    checkpoints_dir: Path,
    progress: Progress | None = None,
    step_max: int | None = None,
    judge: ForecastKeeper | None = None,
) -> tuple[Checkpoint | None, list[Damage]]:
    """The newest sound checkpoint of a run, at or below `step_max`, and the damage of all newer ones.

    judge: also holds each against what the run recorded of its step (`recorded_state.judge_of`).
    (None, []) where there is no checkpoint at all; (None, damages) where none is sound.
    """
    damages: list[Damage] = []
    for step in reversed(steps_in(checkpoints_dir)):
        if step_max is not None and step > step_max:
            continue
        try:
            return open_judged(checkpoints_dir / step_name(step), progress, judge), damages
        except CheckpointDamage as error:
            damages += error.damages
    return None, damages
