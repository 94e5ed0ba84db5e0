"""The distance between the values of two ledgers, and its growth over the steps."""

from dataclasses import dataclass

from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ulps import ulps

GROWTH_OFFSETS = (0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Distance:
    """Two finite values of one quantity at one step.

    absolute: |a - b|.  relative: |a - b| / max(|a|, |b|), 0 if both are 0.  ulps: `storage.ulps.ulps`.
    """

    step: int
    a: float
    b: float

    @property
    def absolute(self) -> float:
        """|a - b|."""
        return abs(self.a - self.b)

    @property
    def relative(self) -> float:
        """|a - b| / max(|a|, |b|); 0 if both are 0."""
        scale = max(abs(self.a), abs(self.b))
        return self.absolute / scale if scale else 0.0

    @property
    def ulps(self) -> int:
        """How many doubles lie from a to b."""
        return ulps(self.a, self.b)

    def as_json(self) -> dict[str, float | int]:
        """The distance as a JSON object."""
        return {
            "step": self.step,
            "a": self.a,
            "b": self.b,
            "absolute": self.absolute,
            "relative": self.relative,
            "ulps": self.ulps,
        }


def growth(
    a: LedgerReader, b: LedgerReader, quantity: str, first_step: int, last_step: int
) -> list[Distance]:
    """The distance of `quantity` (loss or grad_norm) at `first_step`, 1, 10, 100, … steps later, and at the end.

    Steps at which a ledger does not hold the quantity are left out.
    """
    steps = sorted({min(first_step + offset, last_step) for offset in GROWTH_OFFSETS})
    pairs = [(step, getattr(a.record(step), quantity), getattr(b.record(step), quantity)) for step in steps]
    return [
        Distance(step, value_a, value_b)
        for step, value_a, value_b in pairs
        if value_a is not None and value_b is not None
    ]
