"""A model built into memory that the caller gives, with values that the caller gives."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmrun.core.model.spec import ModelSpec

Place = Callable[[str, torch.Size], Tensor]
"""Returns the memory of one parameter by name and shape, float32: new, or a part of a larger buffer."""

Fill = Callable[[str, nn.Parameter], None]
"""Writes the values of one parameter, by name, in place."""


def build(spec: ModelSpec, place: Place, fill: Fill, *, recompute_blocks: bool = False) -> nn.Module:
    """The model in the memory that `place` returns, with the values that `fill` writes.

    A parameter that several modules share stays shared.
    """
    model = spec.build(recompute_blocks=recompute_blocks)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == dict(spec.parameters)
    named = list(model.named_parameters(remove_duplicate=False))
    placed: dict[int, nn.Parameter] = {}
    for name, parameter in named:
        if id(parameter) not in placed:
            memory = place(name, parameter.shape)
            placed[id(parameter)] = nn.Parameter(memory, requires_grad=parameter.requires_grad)
            fill(name, placed[id(parameter)])
        holder, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(holder), attribute, placed[id(parameter)])
    return model


def initial_values(spec: ModelSpec, seed: int) -> Fill:
    """The `Fill` that writes initial values."""
    return lambda name, parameter: spec.initialise(name, parameter, seed)


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that several modules share, each to its first name."""
    first: dict[int, str] = {}
    every = [
        (name, first.setdefault(id(parameter), name))
        for name, parameter in model.named_parameters(remove_duplicate=False)
    ]
    return {name: found for name, found in every if found != name}
