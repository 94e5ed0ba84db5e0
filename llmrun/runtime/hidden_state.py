"""What a model keeps beside its parameters: buffers, attributes of its modules, globals of the user's own modules.

A checkpoint holds parameters only, so anything else that changes from step to step would be lost at a resume.
"""

import hashlib
import sys
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmrun.core.model.build import shared_parameters
from llmrun.core.tensor_digest import Digester

DEPTH_MAX = 8
ENTRIES_MAX = 20_000
"""Values that are looked at: a model that keeps a larger list in Python is not looked at to its end."""

OF_TORCH = frozenset(vars(nn.Module())) | {"forward"}
"""Attributes that every module has; `forward` is replaced if blocks are recomputed."""

NOT_READ = frozenset({"torch", "logging", "threading", "typing", "re", "functools", "weakref", "warnings"})
"""Packages whose objects keep caches and locks of their own."""

_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, range)


@dataclass(frozen=True)
class HiddenState:
    """The values by name, each as a digest or a text."""

    values: Mapping[str, str]

    def changed(self, later: "HiddenState") -> list[str]:
        """The names of what was changed, added or removed."""
        names = dict.fromkeys([*self.values, *later.values])
        return [name for name in names if self.values.get(name) != later.values.get(name)]


def hidden_state(model: nn.Module, files: Collection[str], digester: Digester) -> HiddenState:
    """The state of a model and of the Python modules in `files`, as it is now.

    digester: on the model's device.
    """
    reader = _Reader(digester, {id(part) for part in model.modules()})
    for name, first in shared_parameters(model).items():
        reader.values[name] = f"is {first}"
    for name, part in model.named_modules():
        prefix = f"{name}." if name else ""
        for key, buffer in part._buffers.items():  # noqa: SLF001  without those of children
            reader.read(prefix + key, buffer, 0)
        for key, value in vars(part).items():
            if key not in OF_TORCH and not key.startswith("_fsdp"):
                reader.read(prefix + key, value, 0)
    for module in _modules_in(files):
        for key, value in list(vars(module).items()):
            if not key.startswith("__"):
                reader.read(f"{module.__name__}.{key}", value, 0, of_module=module)
    return HiddenState(reader.values)


def _modules_in(files: Collection[str]) -> Iterator[ModuleType]:
    """The imported Python modules whose files are among `files`."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and getattr(module, "__file__", None) in files:
            yield module


class _Reader:
    """Reads values into `values`, each object once."""

    def __init__(self, digester: Digester, modules: set[int]) -> None:
        """modules: ids of the model's own modules, which the caller walks."""
        self.values: dict[str, str] = {}
        self._digester, self._modules = digester, modules
        self._seen: dict[int, object] = {}

    def read(self, name: str, value: Any, depth: int, of_module: ModuleType | None = None) -> None:
        """Read one value.

        of_module: the Python module whose global it is: its classes are read, those of others are not.
        """
        if len(self.values) >= ENTRIES_MAX:
            return
        if isinstance(value, nn.Parameter) or id(value) in self._modules:
            return
        if isinstance(value, _SCALARS):
            self.values[name] = f"{type(value).__name__} {value!r}"
            return
        if id(value) in self._seen or depth > DEPTH_MAX:
            return
        self._seen[id(value)] = value
        digest = self._digest(value)
        if digest is not None:
            self.values[name] = digest
        elif isinstance(value, Mapping):
            self._read_all(
                name, ((f"[{key!r}]", item) for key, item in list(value.items())), len(value), depth
            )
        elif isinstance(value, list | tuple | set | frozenset | deque):
            # A set of objects has no order of its own: its elements are named by their own text.
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value)
            self._read_all(name, ((f"[{i}]", item) for i, item in enumerate(items)), len(items), depth)
        elif isinstance(value, type):
            if of_module is not None and value.__module__ == of_module.__name__:
                self._read_object(name, value, depth)
        elif type(value).__module__.partition(".")[0] in NOT_READ:
            return
        elif hasattr(value, "__dict__") and not isinstance(value, ModuleType | FunctionType):
            self._read_object(name, value, depth)
        elif " at 0x" not in (text := repr(value)):
            self.values[name] = text  # such as `count(3)` of itertools

    def _read_all(self, name: str, items: Iterator[tuple[str, Any]], count: int, depth: int) -> None:
        self.values[name] = f"{count} entries"
        for key, item in items:
            self.read(name + key, item, depth + 1)

    def _read_object(self, name: str, value: Any, depth: int) -> None:
        """The attributes of an object or a class; `__slots__` are not read."""
        for key, item in list(getattr(value, "__dict__", {}).items()):
            if not key.startswith("__") and not isinstance(item, property | staticmethod | classmethod):
                self.read(f"{name}.{key}", item, depth + 1)

    def _digest(self, value: Any) -> str | None:
        """The digest of a tensor, an array or a generator; None for anything else."""
        if isinstance(value, Tensor):
            if value.is_meta or value.layout is not torch.strided:
                return f"{value.dtype} {list(value.shape)}"
            own = value.detach().to(self._digester.device)
            return f"{value.dtype} {list(value.shape)} {self._digester.digest(own):016x}"
        if isinstance(value, np.ndarray):
            return _sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        if isinstance(value, torch.Generator):
            return _sha256(value.get_state().numpy().tobytes())
        for read in GENERATOR_STATES:
            if not isinstance(value, type | ModuleType) and callable(getattr(value, read, None)):
                return _sha256(repr(getattr(value, read)()).encode())
        bits = getattr(value, "bit_generator", None)
        return None if bits is None else _sha256(repr(bits.state).encode())


GENERATOR_STATES = ("getstate", "get_state")
"""Methods by which generators of Python and numpy give their state."""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
