"""How weights, gradients and optimizer state lie on ranks: one small interface, several strategies.

Every strategy of bitwise mode gives the same bits: it decides who hosts which lanes and who owns which
elements, never what is added to what.  Those of statistical mode leave the sums to torch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from llmrun.core.model.spec import LanguageModel
from llmrun.core.reduce.layout import Share, Slot

Read = Callable[[Slot, int, int], Tensor]
"""read(slot, start, count): elements [start, start + count) of a flattened parameter, float32, on the CPU."""


class Strategy(Protocol):
    """One rank's part in a step.

    model:    what the loop calls.
    slots:    all parameters, in flat order.
    share:    what this rank owns.  weights: [share.size], float32: its own weights; the optimizer's input.
    lanes:    the lanes whose micro-batches this rank runs, in order.  None: all ranks must run the same
              number of passes, and this one has no lane left: it runs along and gives nothing.
    """

    @property
    def model(self) -> LanguageModel: ...  # noqa: D102

    @property
    def slots(self) -> tuple[Slot, ...]: ...  # noqa: D102

    @property
    def share(self) -> Share: ...  # noqa: D102

    @property
    def weights(self) -> Tensor: ...  # noqa: D102

    @property
    def lanes(self) -> Sequence[int | None]: ...  # noqa: D102

    def begin_lane(self, lane: int | None) -> None:
        """Start a lane: its gradients count from zero."""
        ...

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:
        """Before each forward and backward pass: whether it is the last of its lane, of the step."""
        ...

    def end_lane(self, lane: int | None) -> None:
        """Finish a lane."""
        ...

    def finish(self) -> Tensor:
        """The gradient sum over all lanes on this rank's share: [share.size], float32; to be overwritten."""
        ...

    def publish(self) -> None:
        """Put the updated weights of every rank's share where the forward pass reads them."""
        ...

    def load(self, read: Read) -> None:
        """Read all the weights that this rank holds."""
        ...

    def graph_parameters(self) -> list[nn.Parameter]:
        """The parameters that a forward pass leaves in the graph; none where they are gone after it."""
        ...

    def passes(self, count: int) -> int:
        """How many of `count` passes dealt to ranks in turn each rank runs at least, to stay together."""
        ...
