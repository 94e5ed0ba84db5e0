"""How far one rank has come: what its outcome says, however it ends."""

from collections.abc import Callable
from dataclasses import dataclass, field

from llmrun.errors import LlmrunError
from llmrun.run.orders import Outcome, OutcomeKind, SegmentOrders
from llmrun.run.remarks import RemarksWriter


@dataclass
class Progress:
    """Kept up to date by the loop, read when the rank ends or fails.

    step:          finished steps of the state that the rank holds.
    checkpoint:    directory name of the last checkpoint that the rank knows to be committed.
    peak:          reads the peak of this rank's memory, bytes; None until the model is about to be built.
    loop_s:        seconds that the loop took, evaluation and saving included; None until it has ended.
    proven_steps:  recomputed steps that were compared with the ledger's cut tail and were equal.
    remarks:       sentences for the user that did not stop the run.
    live:          where remarks are shown while the run goes on; rank 0's.
    """

    rank: int
    step: int
    checkpoint: str | None
    peak: Callable[[], int | None] | None = None
    loop_s: float | None = None
    proven_steps: int = 0
    remarks: list[str] = field(default_factory=list)
    live: RemarksWriter | None = None

    def remark(self, says: str) -> None:
        """Tell the user something that does not stop the run: now, and at the end."""
        self.remarks.append(says)
        if self.live is not None:
            self.live.write(says)

    @classmethod
    def at_start(cls, orders: SegmentOrders, rank: int) -> "Progress":
        """Where a segment starts."""
        return cls(rank, orders.from_step, orders.checkpoint)

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
            remarks=tuple(self.remarks),
            consequence=consequence,
            peak_memory_bytes=None if self.peak is None else self.peak(),
            loop_s=self.loop_s,
        )
