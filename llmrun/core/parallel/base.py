"""The interface of a parallel strategy: how weights, gradients and optimizer state are spread over ranks.

Every strategy of bitwise mode gives the same bits: it decides which rank hosts which lanes and owns which elements,
never what is added to what.  Those of statistical mode leave the sums to torch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from llmrun.core.model.language_model import LanguageModel
from llmrun.core.reduce.layout import FlatLayout, Share, Slot, flat_layout
from llmrun.core.training_spec import TrainingSpec

Read = Callable[[Slot, int, int], Tensor]
"""read(slot, start, count): elements [start, start + count) of a flattened parameter, float32, on the CPU."""


class Strategy(Protocol):
    """One rank's part in a step.

    model:   the module to call.
    slots:   all parameters, in flat order.
    share:   the elements that this rank owns.
    weights: [share.size], float32: its own weights; updated by the optimizer.
    lanes:   the lanes whose micro-batches this rank runs, in order.  None stands for a padding lane: all ranks must run
             the same number of passes, and its micro-batches contribute zero.
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

    def share_of(self, rank: int) -> Share:
        """The elements that any rank owns; of this rank, `share`."""
        ...

    def begin_lane(self, lane: int | None) -> None:
        """Start a lane: its gradients are added up from zero."""
        ...

    def before_pass(self, *, ends_lane: bool, ends_step: bool) -> None:
        """Prepare a forward and backward pass.

        ends_lane, ends_step: whether it is the last of its lane, of the step on this rank.
        """
        ...

    def end_lane(self, lane: int | None) -> None:
        """Finish a lane."""
        ...

    def finish(self) -> Tensor:
        """The gradient sum over all lanes on this rank's share: [share.size], float32; the caller may overwrite it."""
        ...

    def publish(self) -> None:
        """Make the updated weights of every rank's share visible to the forward passes of all ranks."""
        ...

    def load(self, read: Read) -> None:
        """Set all weights that this rank holds to those that `read` returns."""
        ...

    def graph_parameters(self) -> list[nn.Parameter]:
        """The parameters in the graph of a forward pass; empty if they are freed after it."""
        ...

    def passes(self, count: int) -> int:
        """The passes that every rank must run at least, if `count` passes are handed out to ranks in turn."""
        ...


def layout_of(spec: TrainingSpec) -> FlatLayout:
    """The flat layout of the model's parameters, in sections that are updated alike."""
    sections = [group.names for group in spec.groups]
    return flat_layout(spec.model.parameters, spec.batch.D, sections, spec.model.frozen)
