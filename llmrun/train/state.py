"""The state machine of training on one rank: weights, gradients, optimizer, and the step."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llmrun.config.resolve import Resolved
from llmrun.ledger.digest import Digester
from llmrun.model.contract import LanguageModel
from llmrun.model.initialise import build, initial_values
from llmrun.plan.parameters import parameter_shapes
from llmrun.reduce.engine import Reduction
from llmrun.reduce.layout import FlatLayout, flat_layout
from llmrun.train.optimizer import ShardedAdamW


@dataclass
class TrainingState:
    """Everything that a step changes.

    flat: [layout.total], float32: all weights; parameters are views into it.
    n_windows: windows of the training split, of which an epoch is made.
    step: finished optimizer steps.
    """

    resolved: Resolved
    rank: int
    device: torch.device
    model: LanguageModel
    layout: FlatLayout
    flat: Tensor
    reduction: Reduction
    optimizer: ShardedAdamW
    digester: Digester
    n_windows: int
    step: int = 0
    shard: range = field(init=False)

    def __post_init__(self) -> None:
        self.shard = self.layout.shard(self.rank)

    @property
    def D(self) -> int:
        """Ranks that share a step."""
        return self.layout.D

    @property
    def is_bf16(self) -> bool:
        """Whether forward passes run under bfloat16 autocast."""
        return self.resolved.config.precision == "bf16"

    @property
    def own_weights(self) -> Tensor:
        """This rank's shard of the weights: [shard_size], float32, a view."""
        return self.flat[self.shard.start : self.shard.stop]

    def share_weights(self) -> None:
        """Give every rank's updated shard to everybody."""
        self.reduction.exchange.gather(self.flat)


def initial_state(resolved: Resolved, rank: int, device: torch.device, n_windows: int) -> TrainingState:
    """The state before step 1: initial weights, moments of zero."""
    config, batch = resolved.config, resolved.batch
    layout = flat_layout(parameter_shapes(resolved.shape), batch.D)
    flat = torch.zeros(layout.total, dtype=torch.float32, device=device)
    starts = {slot.name: slot.start for slot in layout.slots}

    def place(name: str, shape: torch.Size) -> Tensor:
        return flat[starts[name] : starts[name] + shape.numel()].view(shape)

    model: nn.Module = build(
        resolved.shape,
        place,
        initial_values(config.seed, resolved.shape.n_layers),
        recompute_blocks=config.activation_checkpointing == "block",
    ).to(device)
    parameters = dict(model.named_parameters())
    assert all(p.data_ptr() == flat[starts[n] :].data_ptr() for n, p in parameters.items())
    return TrainingState(
        resolved=resolved,
        rank=rank,
        device=device,
        model=model,
        layout=layout,
        flat=flat,
        reduction=Reduction(parameters, layout, batch.V, rank, device),
        optimizer=ShardedAdamW(flat, layout, rank, config.optimizer),
        digester=Digester(device),
        n_windows=n_windows,
    )
