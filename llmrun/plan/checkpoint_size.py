"""Bytes of a checkpoint: the payload of its tensors, without headers and JSON (less than 1 %)."""

from dataclasses import dataclass
from typing import NamedTuple

from llmrun.config.schema import Config

BYTES_PER_PARAMETER = 12
"""fp32 weight, fp32 first moment, fp32 second moment."""
TEXTBOOK_BYTES_PER_PARAMETER = 10
"""bf16 weight, fp32 first moment, fp32 second moment."""


class CheckpointSize(NamedTuple):
    """What llmrun writes, and beside it the textbook's bf16 form, in bytes.

    total, per_rank:                    12 bytes a parameter; a rank writes 1/D of it, rounded up.
    textbook_total, textbook_per_rank:  2 bytes of bf16 weight and 8 of moments a parameter.
    parts:                              of `total`: weights and the two moments.
    """

    total: int
    per_rank: int
    textbook_total: int
    textbook_per_rank: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, as the manifest calls them."""
        third = self.total // 3
        return {"parameter": third, "optimizer/exp_avg": third, "optimizer/exp_avg_sq": third}


def checkpoint_size(N_params_total: int, D: int) -> CheckpointSize:
    """Sizes of one checkpoint written by D ranks."""
    total = payload_bytes(N_params_total, BYTES_PER_PARAMETER)
    textbook = payload_bytes(N_params_total, TEXTBOOK_BYTES_PER_PARAMETER)
    return CheckpointSize(total, -(-total // D), textbook, -(-textbook // D))


def payload_bytes(N_params_total: int, bytes_per_parameter: int) -> int:
    """Bytes of all tensors; others keep 2 (bf16 weights), 10 (with moments) or 14 (with fp32 weights too)."""
    return bytes_per_parameter * N_params_total


@dataclass(frozen=True)
class Retention:
    """Checkpoints on disk at the end of a run, with the one being written: how many, and why.

    newest: `keep_last`.  best: 1 where the best is kept.  permanent: multiples of `keep_every_steps`.
    Together they are no more than the run has steps: it saves after a step, at most once after each.
    """

    newest: int
    best: int
    permanent: int

    @property
    def count(self) -> int:
        """All of them, and the one being written."""
        return self.newest + self.best + self.permanent + 1


def retention_of(keep_last: int, keep_best: bool, keep_every_steps: int | None, steps: int) -> Retention:
    """The most checkpoints that are there at once in a run of `steps`.

    keep_best: whether the best is kept and there is one: only evaluation finds it.
    """
    newest = min(keep_last, steps)
    best = min(int(keep_best), steps - newest)
    multiples = steps // keep_every_steps if keep_every_steps is not None else 0
    return Retention(newest, best, min(multiples, steps - newest - best))


def retention_in(config: Config, steps: int) -> Retention:
    """The most checkpoints that a run of this config has at once."""
    keep, evaluates = config.checkpoint, config.eval.every_steps is not None
    return retention_of(keep.keep_last, keep.keep_best and evaluates, keep.keep_every_steps, steps)
