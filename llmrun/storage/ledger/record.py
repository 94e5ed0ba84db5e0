"""One record of the ledger: 112 bytes, little-endian, of fixed layout (docs/ledger-format.md).

Word i (8 bytes) of a record is quantity i of `QUANTITIES`; bit i of the word `present` is set if it was recorded.  An
absent quantity is stored as 0 and read as None.  The last 32 bytes are the chain.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmrun.core.combined_digest import optimizer_due

QUANTITIES = (
    "step",
    "tokens",
    "loss",
    "grad_norm",
    "learning_rate",
    "tokens_digest",
    "gradients_digest",
    "weights_digest",
    "optimizer_digest",
)
"""The words of a record, in order.  `step` is always present."""

FLOATS = ("loss", "grad_norm", "learning_rate")

BODY = struct.Struct("<QQdddQQQQQ")
BODY_BYTES = BODY.size
CHAIN_BYTES = 32
RECORD_BYTES = BODY_BYTES + CHAIN_BYTES
RECORD_WORDS = RECORD_BYTES // 8
BODY_WORDS = BODY_BYTES // 8
PRESENT_WORD = len(QUANTITIES)

RECORD_DTYPE = np.dtype(
    [(name, "<f8" if name in FLOATS else "<u8") for name in QUANTITIES]
    + [("present", "<u8"), ("chain", f"V{CHAIN_BYTES}")]
)
"""The numpy type of a record: 112 bytes without padding."""

TENSORS_EVERY = 100
"""Steps between two files of per-tensor digests (step 0 included)."""


def quantities_due(step: int) -> frozenset[str]:
    """The quantities in the record of `step` of a trainer that records all."""
    if step == 0:
        return frozenset({"step", "weights_digest"})
    if optimizer_due(step):
        return frozenset(QUANTITIES)
    return frozenset(QUANTITIES) - {"optimizer_digest"}


def tensors_due(step: int) -> bool:
    """Whether per-tensor digests are stored at `step`."""
    return step % TENSORS_EVERY == 0


def mask_of(quantities: frozenset[str]) -> int:
    """The bit mask of a set of quantities."""
    return sum(1 << bit for bit, name in enumerate(QUANTITIES) if name in quantities)


@dataclass(frozen=True)
class LedgerRecord:
    """The state after `step` finished steps; quantities that were not recorded are None.

    tokens:         tokens seen after the step.
    loss:           mean loss of the step's targets in nats, fp64.
    grad_norm:      norm of the averaged, unclipped gradient.
    learning_rate:  of the step's update.
    *_digest:       64-bit digests of the step's tokens, averaged unclipped gradients, weights after the
                    step, optimizer state after the step.
    chain:          32 bytes; empty until the record is in a ledger.
    """

    step: int
    tokens: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    tokens_digest: int | None = None
    gradients_digest: int | None = None
    weights_digest: int | None = None
    optimizer_digest: int | None = None
    chain: bytes = b""

    @property
    def quantities(self) -> frozenset[str]:
        """The names of the quantities that this record holds."""
        return frozenset(name for name in QUANTITIES if getattr(self, name) is not None)

    def body(self) -> bytes:
        """The 80 bytes before the chain.

        Raises ValueError if a value is not finite: such a step stops the run before it is recorded.
        """
        for name in FLOATS:
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of step {self.step} must be finite, got {value}")
        values = [0 if (value := getattr(self, name)) is None else value for name in QUANTITIES]
        return BODY.pack(*values, mask_of(self.quantities))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The record in 112 bytes."""
        *words, present = BODY.unpack_from(raw)
        values: dict[str, Any] = {
            name: word if present >> bit & 1 else None
            for bit, (name, word) in enumerate(zip(QUANTITIES, words, strict=True))
        }
        return cls(**values, chain=raw[BODY_BYTES:RECORD_BYTES])
