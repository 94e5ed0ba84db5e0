"""Names the part of a model that a set of its tensors points at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FORWARD = (
    "embed_tokens", "embed_positions", "layers",
    "input_layernorm", "self_attn", "post_attention_layernorm", "mlp",
    "norm", "lm_head",
)  # fmt: skip
"""The parts of our models in the order in which a forward pass reaches them; what is not named here keeps its place."""

MOMENTS = (".exp_avg", ".exp_avg_sq")


@dataclass(frozen=True)
class Place:
    """Where tensors differ.

    module:  the part of the model, such as `model.layers.3.self_attn`.
    others:  further tensors that differ outside it.
    """

    module: str
    others: int = 0


def parameter_of(tensor: str) -> str:
    """The parameter that a tensor of a checkpoint belongs to: itself, or that of a moment."""
    return next((tensor.removesuffix(moment) for moment in MOMENTS if tensor.endswith(moment)), tensor)


def module_of(parameter: str) -> str:
    """The part of the model: `model.layers.3.self_attn` for each parameter in it."""
    parts = parameter.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    end = numbers[0] + 2 if numbers else len(parts) - 1
    return ".".join(parts[: min(end, len(parts) - 1)]) or parameter


def first_in_backward(tensors: Sequence[str]) -> Place | None:
    """The module that a backward pass reaches first among those whose gradients differ.

    An error in a module's backward pass spoils the gradients of the module and of all before it in the
    forward pass, never of those behind it.  Token tables that also serve as output head come last.
    """
    if not tensors:
        return None
    if len(tensors) == 1:
        return Place(parameter_of(tensors[0]))
    parameters = dict.fromkeys(parameter_of(tensor) for tensor in tensors)
    module = max((module_of(parameter) for parameter in parameters), key=forward_place)
    return Place(module, sum(module_of(parameter) != module for parameter in parameters))


def shared_module(tensors: Iterable[str]) -> Place | None:
    """The one tensor or module to which all belong; None where they are of several."""
    parameters = list(dict.fromkeys(parameter_of(tensor) for tensor in tensors))
    if len(parameters) == 1:
        return Place(parameters[0])
    modules = {module_of(parameter) for parameter in parameters}
    return Place(modules.pop()) if len(modules) == 1 else None


def forward_place(module: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts modules as a forward pass reaches them."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (FORWARD.index(part) if part in FORWARD else 1, 0, part)
        for part in module.split(".")
    )
