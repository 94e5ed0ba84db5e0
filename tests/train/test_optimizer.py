"""AdamW on shards."""

import pytest
import torch

from llmrun.core.optimizer import ShardedOptimizer
from llmrun.core.parameter_groups import OptimizerSpec, parameter_groups
from llmrun.core.reduce.layout import flat_layout

SHAPES = {"a": (72, 43), "b": (72,), "c": (43, 72), "d": (5,), "e": (1, 1)}


def trained(D: int, implementation: str, **settings) -> dict[str, torch.Tensor]:
    """Weights after five updates with fixed gradients, from D shards."""
    spec = OptimizerSpec(
        **{
            "name": "adamw",
            "lr": 1e-2,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.1,
            "grad_clip": 1.0,
            "implementation": implementation,
        }
        | settings
    )
    groups = parameter_groups(SHAPES, (), spec)
    layout = flat_layout(SHAPES, D, [group.names for group in groups])
    flat, gradient = torch.zeros(layout.total), torch.zeros(layout.total)
    generator = torch.Generator().manual_seed(0)
    parts = [slice(s.start, s.start + s.numel) for s in layout.slots]
    for part in parts:
        flat[part] = torch.randn(part.stop - part.start, generator=generator)
    shards = [
        ShardedOptimizer(
            flat[layout.shard(rank).start : layout.shard(rank).stop], layout.share, rank, D, groups, spec
        )
        for rank in range(D)
    ]
    for _ in range(5):
        for part in parts:
            gradient[part] = torch.randn(part.stop - part.start, generator=generator)
        for rank, optimizer in enumerate(shards):
            own = layout.shard(rank)
            optimizer.update(gradient[own.start : own.stop], lambda peak: peak)
    return {s.name: flat[part].view(s.shape) for s, part in zip(layout.slots, parts, strict=True)}


@pytest.mark.parametrize("implementation", ["fused", "foreach"])
@pytest.mark.parametrize("D", [2, 3, 5, 7, 8])
def test_where_shards_are_cut_changes_no_bit(implementation, D):
    """Awkward shapes, any D: the same weights as on one rank."""
    alone, shared = trained(1, implementation), trained(D, implementation)
    assert all(torch.equal(alone[name], shared[name]) for name in SHAPES)


def test_it_is_adamw():
    """Equal to torch's own AdamW on separate tensors, with decay on matrices only (within rounding)."""
    layout = flat_layout(SHAPES, 1, [[*"ace"], [*"bd"]])
    generator = torch.Generator().manual_seed(0)
    parameters = {
        s.name: torch.nn.Parameter(torch.randn(s.numel, generator=generator).view(s.shape))
        for s in layout.slots
    }
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in parameters.values()]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(5):
        for slot in layout.slots:
            parameters[slot.name].grad = torch.randn(slot.numel, generator=generator).view(slot.shape)
        adamw.step()
    ours = trained(1, "fused")
    for name, parameter in parameters.items():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=1e-5, atol=1e-6)
