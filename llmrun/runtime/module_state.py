"""A description of everything that a model keeps between passes, in which any change is visible."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmrun.core.tensor_digest import Digester

DEPTH_MAX = 5
LENGTH_MAX = 4096
_OF_TORCH = frozenset(vars(nn.Module())) | {"_is_full_backward_hook", "_is_hf_initialized"}
"""Attributes that every module has."""

Described = dict[tuple[str, str], object]
"""By (kind, dotted name): `buffer`, `attribute`."""


class StateDescriber:
    """Describes buffers and attributes of modules; tensors by digest."""

    def __init__(self, digester: Digester) -> None:
        self._digester = digester

    def describe(self, model: nn.Module) -> Described:
        """Buffers and attributes of all modules.  Parameters are not included."""
        found: Described = {("buffer", name): self._tensor(buffer) for name, buffer in model.named_buffers()}
        for name, module in model.named_modules():
            for attribute, value in vars(module).items():
                if attribute not in _OF_TORCH:
                    key = f"{name}.{attribute}".removeprefix(".")
                    found["attribute", key] = self._value(value, DEPTH_MAX)
        return found

    def _tensor(self, tensor: Tensor) -> object:
        if tensor.device.type == "meta":
            return ("meta", tuple(tensor.shape))
        values = tensor.detach().to(self._digester.device).clone()
        return (
            str(tensor.dtype),
            tuple(tensor.shape),
            self._digester.digest(values) if values.numel() else 0,
        )

    def _value(self, value: Any, depth: int) -> object:
        """A value that compares equal exactly if nothing that is looked at has changed."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if value is None or isinstance(
            value, bool | int | float | complex | str | bytes | torch.dtype | torch.device
        ):
            return (type(value).__name__, repr(value))
        if depth == 0 or isinstance(value, nn.Module | type) or callable(value):
            return type(value).__qualname__
        generator = _generator_state(value)
        if generator is not None:
            return self._value(generator, depth - 1)
        if isinstance(value, np.ndarray):
            return (str(value.dtype), value.shape, value.tobytes())
        if isinstance(value, list | tuple | deque):
            return (len(value), *(self._value(each, depth - 1) for each in list(value)[:LENGTH_MAX]))
        if isinstance(value, dict):
            items = list(value.items())[:LENGTH_MAX]
            return (len(value), *((str(key), self._value(each, depth - 1)) for key, each in items))
        if isinstance(value, set | frozenset):
            return (len(value), *sorted(str(self._value(each, depth - 1)) for each in value))
        if hasattr(value, "__dict__"):
            return (type(value).__qualname__, self._value(vars(value), depth - 1))
        return type(value).__qualname__


def _generator_state(value: Any) -> Any:
    """The state of a random generator of Python, numpy or torch; None for anything else."""
    if type(value).__module__.partition(".")[0] not in ("random", "numpy", "torch"):
        return None
    for name in ("getstate", "get_state"):
        if hasattr(value, name):
            return getattr(value, name)()
    bit_generator = getattr(value, "bit_generator", None)
    return None if bit_generator is None else bit_generator.state


def parameter_identities(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """By name: which parameter it is, its memory, shape, dtype and whether it requires a gradient."""
    return {
        name: (id(each), each.data_ptr(), tuple(each.shape), each.dtype, each.requires_grad)
        for name, each in model.named_parameters(remove_duplicate=False)
    }


def changed_keys(before: Described, after: Described) -> tuple[tuple[str, str], ...]:
    """What was changed, added or removed, in the order of `after`."""
    keys = dict.fromkeys([*after, *before])
    return tuple(key for key in keys if before.get(key) != after.get(key))
