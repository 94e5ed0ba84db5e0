"""Initial weights of the transformer: each parameter's values depend on the seed and on its name alone."""

import math

import torch
from torch import nn

from llmrun.core.generators import cpu_generator

STANDARD_DEVIATION = 0.02
RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


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
