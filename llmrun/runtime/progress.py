"""The progress of one rank, for its outcome: steps, warnings, time and peak memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llmrun.errors import LlmrunError
from llmrun.run.warnings import WarningsWriter
from llmrun.run.worker_spec import Outcome, OutcomeKind, WorkerSpec


@dataclass
class Progress:
    """Kept up to date by the loop, read when the rank ends or fails.

    step:          finished steps of the state that the rank holds.
    checkpoint:    directory name of the last checkpoint that the rank knows to be committed.
    peak:          reads the peak of this rank's memory, bytes; None until the model is about to be built.
    loop_s:        seconds that the loop took, evaluation and saving included; None until it has ended.
    proven_steps:  recomputed steps that were compared with the ledger's cut tail and were equal.
    warnings:      sentences for the user that did not stop the run.
    live:          rank 0's: shows warnings while the run continues.
    """

    rank: int
    step: int
    checkpoint: str | None
    peak: Callable[[], int | None] | None = None
    loop_s: float | None = None
    proven_steps: int = 0
    warnings: list[str] = field(default_factory=list)
    live: WarningsWriter | None = None

    def warn(self, message: str) -> None:
        """Show the user a warning, now and when the segment ends."""
        self.warnings.append(message)
        if self.live is not None:
            self.live.write(message)

    @classmethod
    def at_start(cls, worker_spec: WorkerSpec, rank: int) -> "Progress":
        """The progress of a rank at the start of a segment."""
        return cls(rank, worker_spec.from_step, worker_spec.checkpoint)

    def outcome(
        self, kind: OutcomeKind, error: LlmrunError | None = None, *, consequence: bool = False
    ) -> Outcome:
        """The outcome of a rank that ends here."""
        return Outcome(
            rank=self.rank,
            kind=kind,
            step=self.step,
            error=None if error is None else error.as_json(),
            proven_steps=self.proven_steps,
            checkpoint=self.checkpoint,
            warnings=tuple(self.warnings),
            consequence=consequence,
            peak_memory_bytes=None if self.peak is None else self.peak(),
            loop_s=self.loop_s,
        )


STATUS = Path("/proc/self/status")
_KIB = 1024


class PeakMemory:
    """The peak of this rank's memory since the object was made.

    CUDA: the most that torch's allocator had allocated at once on the device.
    CPU:  the process's peak resident memory, without its file-backed and shared pages (code, datasets), less the
          anonymous memory that it had at the start (interpreter, torch).  Includes what malloc keeps unused.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_start = {} if device.type == "cuda" else resident()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int | None:
        """Bytes; None if the system does not report it, or if the peak was reached before the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        start, now = self._at_start, resident()
        if not start or not now or now["VmHWM"] == start["VmHWM"]:
            return None
        return now["VmHWM"] - now["RssFile"] - now["RssShmem"] - start["RssAnon"]


def resident() -> dict[str, int]:
    """VmHWM, RssAnon, RssFile, RssShmem of this process in bytes (proc(5)); empty if the system has none."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    wanted = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
    return {name: int(values[name].split()[0]) * _KIB for name in wanted} if "RssAnon" in values else {}
