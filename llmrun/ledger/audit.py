"""Compares freshly recorded steps with an earlier ledger of the same steps, as they come."""

from llmrun.ledger.compare import Difference, differing_fields
from llmrun.ledger.reader import LedgerReader
from llmrun.ledger.record import Record


class Audit:
    """An earlier record of steps that are computed again: the cut tail of a ledger, or a twin's ledger.

    proven_steps: steps (record 0 not counted) that were compared and found equal so far.
    A tail begins where its ledger was cut: the state before its first step is the one that both start from.
    """

    def __init__(self, earlier: LedgerReader) -> None:
        self.earlier = earlier
        self.proven_steps = 0
        self._equal_before = earlier.first_step - 1

    def check(self, record: Record) -> Difference | None:
        """Compare a new record with the earlier one of its step; `a` is the earlier, `b` the new one.

        Returns None where they are equal, or where the earlier ledger does not hold the step.
        """
        if record.step not in self.earlier.steps:
            return None
        earlier = self.earlier.record(record.step)
        fields = differing_fields(earlier, record)
        if fields:
            return Difference(record.step, fields, earlier, record, self._equal_before == record.step - 1)
        self._equal_before = record.step if record.weights_digest is not None else -1
        self.proven_steps += record.step > 0
        return None

    @property
    def last_step(self) -> int:
        """The last step that can be proven."""
        return self.earlier.last_step
