"""Bytes of a checkpoint: the payload of its tensors, without headers and JSON (less than 1 %)."""

from dataclasses import dataclass

BYTES_PER_PARAMETER = 12
"""fp32 weight, fp32 first moment, fp32 second moment."""


@dataclass(frozen=True)
class CheckpointSize:
    """What llmrun writes, and beside it the textbook's bf16 form, in bytes.

    total, per_rank:                    12 bytes a parameter; a rank writes 1/D of it, rounded up.
    textbook_total, textbook_per_rank:  2 bytes of bf16 weight and 8 of moments a parameter.
    """

    total: int
    per_rank: int
    textbook_total: int
    textbook_per_rank: int


def checkpoint_size(N_params_total: int, D: int) -> CheckpointSize:
    """Sizes of one checkpoint written by D ranks."""
    total = BYTES_PER_PARAMETER * N_params_total
    textbook = (2 + 8) * N_params_total
    return CheckpointSize(total, -(-total // D), textbook, -(-textbook // D))
