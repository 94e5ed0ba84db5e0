"""What must hold after every kill and at the end of every run; whatever does not is a `Finding`."""

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from llmrun.run.directory import RunDirectory
from llmrun.storage.checkpoint.layout import step_name, steps_in
from llmrun.storage.checkpoint.verification import verify_files
from llmrun.storage.ledger.reader import LedgerReader
from warm.bits import chain_of, losses_of, tensors_of

PR_SET_CHILD_SUBREAPER = 36
"""From <linux/prctl.h>."""

GONE_WITHIN_S = 3.0
"""The kernel kills a child of a dead parent at once; a busy machine and a slow fsync take a moment."""


class Finding(Exception):
    """Something that must never be.

    kind: unsound, lost, orphans, bits, leftover, or ending.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Truth:
    """The run that was never killed: the bits of every step."""

    run: RunDirectory
    steps: int
    _tensors: dict[int, dict[str, str]] = field(default_factory=dict)

    def tensors(self, step: int) -> dict[str, str]:
        """sha256 of every tensor and random state after a step."""
        if step not in self._tensors:
            self._tensors[step] = tensors_of(self.run, step)
        return self._tensors[step]


def adopt_orphans() -> None:
    """Every process below this one becomes its child when its parent dies: none can hide."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_descendants(within_s: float = GONE_WITHIN_S) -> float:
    """Reap until no process below this one is left; returns the seconds it took.  Finding: orphans, then killed."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return time.monotonic() - begun
        if not reaped:
            time.sleep(0.002)
    left = psutil.Process().children(recursive=True)
    names = [f"PID {process.pid}: {' '.join(process.cmdline())[:80]}" for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left)
    raise Finding(
        "orphans",
        f"{len(names)} processes live {within_s:g} s after their launcher's end: {'; '.join(names)}",
    )


def check_checkpoints(run: RunDirectory, truth: Truth) -> list[int]:
    """Every checkpoint under a final name is sound and holds the bits of its step; returns their steps.

    Twice: `sha256sum -c` by hand, and llmrun's own reader.
    """
    steps = steps_in(run.checkpoints)
    for step in steps:
        path = run.checkpoints / step_name(step)
        for problem in [*unsummed(path), *verify_files(path)]:
            raise Finding("unsound", f"{path.name} stands under its final name and is not sound: {problem}")
        if tensors_of(run, step) != truth.tensors(step):
            raise Finding("bits", f"{path.name} is sound and does not hold the bits of step {step}")
    return steps


def unsummed(checkpoint: Path) -> list[str]:
    """Files that SHA256SUMS does not hold for, by hashlib alone."""
    sums = checkpoint / "SHA256SUMS"
    if not sums.is_file():
        return ["there is no SHA256SUMS"]
    stated = dict(reversed(line.split("  ")) for line in sums.read_text().splitlines())
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.iterdir()
        if path != sums
    }
    return [
        f"{name}: its sha256 is another"
        for name in stated.keys() | found
        if stated.get(name) != found.get(name)
    ]


def check_end(run: RunDirectory, truth: Truth) -> None:
    """A run that is done has the bits of the straight one: losses, chain, tensors, generators, metrics."""
    comparisons: list[tuple[str, Callable[[RunDirectory], object]]] = [
        ("losses", losses_of),
        ("the ledger's chain", chain_of),
        ("tensors", lambda of: tensors_of(of, truth.steps)),
        ("metrics.jsonl", metrics_of),
    ]
    for what, find in comparisons:
        if find(run) != find(truth.run):
            raise Finding("bits", f"{what} of {run.name} are not those of the straight run")


def metrics_of(run: RunDirectory) -> list[tuple[int, float]]:
    """(step, loss) of every line."""
    rows = map(json.loads, run.metrics_file.read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def recomputed_steps(run: RunDirectory) -> int:
    """The steps that were cut off the ledger and computed again, each record equal to the final one, bit by bit."""
    final = LedgerReader(run.ledger_file)
    count = 0
    for path in sorted(run.path.glob("ledger-tail-*.bin")):
        tail = LedgerReader(path)
        for step in tail.steps:
            if tail.record(step) != final.record(step):
                raise Finding("bits", f"step {step} was recomputed and is not what {path.name} had recorded")
            count += step > 0
    return count
