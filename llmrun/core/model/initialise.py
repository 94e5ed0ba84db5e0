"""Initial weights: each parameter's values depend on the seed and on its name alone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmrun.core.generators import cpu_generator
from llmrun.core.model.parameters import parameter_shapes
from llmrun.core.model.shape import ModelShape
from llmrun.core.model.transformer import Transformer

STANDARD_DEVIATION = 0.02
RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


Place = Callable[[str, torch.Size], Tensor]
"""Gives the memory of one parameter, float32: new, or a part of a larger buffer."""

Fill = Callable[[str, nn.Parameter], None]
"""Puts the values into one parameter."""


def build(shape: ModelShape, place: Place, fill: Fill, *, recompute_blocks: bool = False) -> Transformer:
    """The transformer in the memory that `place` gives, with the weights that `fill` puts there."""
    with torch.device("meta"):
        model = Transformer(shape, recompute_blocks=recompute_blocks)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == parameter_shapes(shape)
    for name, parameter in list(model.named_parameters()):
        holder, _, attribute = name.rpartition(".")
        placed = nn.Parameter(place(name, parameter.shape))
        setattr(model.get_submodule(holder), attribute, placed)
        fill(name, placed)
    return model


def initial_values(seed: int, n_layers: int) -> Fill:
    """Fills each parameter with its initial values."""
    return lambda name, parameter: initialise(name, parameter, seed, n_layers)


def initialise(name: str, parameter: nn.Parameter, seed: int, n_layers: int) -> None:
    """Fill one parameter from its own stream, drawn on the CPU whatever the device.

    Matrices and tables: normal, standard deviation 0.02, divided by sqrt(2·n_layers) for the projections that
    write to the residual stream (Radford et al. 2019, GPT-2, §2.3).  Norm weights 1, biases 0.
    """
    with torch.no_grad():
        if name.endswith(".bias"):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            scale = math.sqrt(2 * n_layers) if name.endswith(RESIDUAL_PROJECTIONS) else 1.0
            values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
            generator = cpu_generator(seed, "init", name)
            parameter.copy_(values.normal_(mean=0.0, std=STANDARD_DEVIATION / scale, generator=generator))
