"""The objects that a migration script works with: the old parameters with their moments, and the new model.

Values are read only when the new checkpoint is written, so memory holds only the tensors that are being written.  They
are always float32, as in training.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmrun.core.model.spec import ModelSpec
from llmrun.core.parameter_groups import MOMENTS
from llmrun.storage.checkpoint.reader import Checkpoint

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

SLOTS = tuple(name for names in MOMENTS.values() for name in names)
"""The moments of all optimizers."""

_HERE = str(Path(__file__).parent)


class NoSuchTensor(KeyError):
    """A script asked for a tensor that the model does not have."""

    def __init__(self, whose: str, name: object, known: Mapping[str, object]) -> None:
        near = get_close_matches(str(name), known, n=1)
        self.message = f"the {whose} model has no tensor {name}" + (
            f"; the nearest is {near[0]}" if near else ""
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class Tensor:
    """A parameter with its moments, computed when it is needed.

    sources: names of the old parameters that it is made of.
    is_fresh: whether it contains values that are not from the old checkpoint.
    moments: names of its moments that come from the old checkpoint; others are zeros.
    line: the line of the script that made it; None for an old tensor.
    """

    sources: frozenset[str]
    is_fresh: bool
    moments: frozenset[str]
    line: int | None

    @property
    def shape(self) -> Shape:
        """The shape of the values."""
        raise NotImplementedError

    def read(self) -> Array:
        """The values of the parameter, float32; a copy that the script may change."""
        return self.values(None)

    def values(self, slot: str | None) -> Array:
        """The values of the parameter (None) or of its moment `slot`, float32; a new array."""
        raise NotImplementedError

    def apply(self, function: Callable[..., object], *others: "Tensor", moments: bool = True) -> "Tensor":
        """The tensor `function(values, *values of others)`, computed when it is written.

        function: takes and returns numpy arrays; may change its arguments.
        moments:  call it for each moment, too.  Right for functions that move elements (slices, padding,
                  transposing, concatenating), wrong for arithmetic.  If false, the moments are zeros.
        """
        return Derived(function, (self, *others), moments=moments)


class Old(Tensor):
    """A parameter of the old checkpoint."""

    is_fresh = False
    line = None

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.name = name
        self.sources = frozenset({name})
        self._checkpoint = checkpoint
        self.moments = frozenset(slot for slot in SLOTS if self._has(slot))

    def _has(self, slot: str) -> bool:
        entry = self._checkpoint.manifest.tensors.get(f"{self.name}.{slot}")
        return entry is not None and entry.kind == f"optimizer/{slot}" and entry.shape == self.shape

    @property
    def shape(self) -> Shape:
        """The shape in the manifest."""
        return self._checkpoint.manifest.tensors[self.name].shape

    @property
    def dtype(self) -> str:
        """The element type in the file, by its safetensors name."""
        return self._checkpoint.manifest.tensors[self.name].dtype

    def values(self, slot: str | None) -> Array:
        """See `Tensor.values`; a moment that was not saved is zeros."""
        if slot is not None and slot not in self.moments:
            return np.zeros(self.shape, dtype=np.float32)
        name = self.name if slot is None else f"{self.name}.{slot}"
        return as_float32(self._checkpoint.read_all(name), self._checkpoint.tensor(name).dtype)


class Fresh(Tensor):
    """A parameter with new values; its moments are zeros."""

    sources = frozenset()
    is_fresh = True
    moments = frozenset()

    def __init__(self, shape: Shape, fill: Callable[[], Array]) -> None:
        self.line = caller_line()
        self._shape, self._fill = shape, fill

    @property
    def shape(self) -> Shape:
        """The shape of the values."""
        return self._shape

    def values(self, slot: str | None) -> Array:
        """See `Tensor.values`."""
        return self._fill() if slot is None else np.zeros(self._shape, dtype=np.float32)


class Derived(Tensor):
    """The result of a function of the script on other tensors."""

    def __init__(
        self, function: Callable[..., object], operands: tuple[Tensor, ...], *, moments: bool
    ) -> None:
        for operand in operands:
            if not isinstance(operand, Tensor):
                raise TypeError(
                    f"an operand of apply must be a tensor (`new.array` makes one), got {type(operand).__name__}"
                )
        self.sources = frozenset().union(*(operand.sources for operand in operands))
        self.is_fresh = any(operand.is_fresh for operand in operands)
        self.moments = frozenset().union(*(operand.moments for operand in operands if moments))
        self.line = caller_line()
        self._function, self._operands = function, operands
        self._shape: Shape | None = None

    @property
    def shape(self) -> Shape:
        """The shape of the values, which are computed once to find it."""
        return self.read().shape if self._shape is None else self._shape

    def values(self, slot: str | None) -> Array:
        """See `Tensor.values`."""
        if slot is not None and slot not in self.moments:
            return np.zeros(self.shape, dtype=np.float32)
        made = self._function(*(operand.values(slot) for operand in self._operands))
        values = np.ascontiguousarray(made, dtype=np.float32)
        self._shape = values.shape
        return values


class OldState(Mapping[str, Old]):
    """The parameters of the old checkpoint by name, each with its moments."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = {
            name: Old(checkpoint, name)
            for name, entry in checkpoint.manifest.tensors.items()
            if not entry.kind.startswith("optimizer/")
        }

    def __getitem__(self, name: str) -> Old:
        if name not in self._tensors:
            raise NoSuchTensor("old", name, self._tensors)
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class NewModel(Mapping[str, Shape]):
    """The shape of every parameter of the new model by name, in the order of the model.

    moments: the names of each parameter's moments.
    """

    def __init__(self, model: ModelSpec, seed: int, moments: Mapping[str, tuple[str, ...]]) -> None:
        self._model, self._shapes, self._seed, self.moments = model, model.parameters, seed, moments

    def __getitem__(self, name: str) -> Shape:
        if name not in self._shapes:
            raise NoSuchTensor("new", name, self._shapes)
        return self._shapes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def init(self, name: str) -> Fresh:
        """The initial values of `name` in a new run of this config, from its own random stream."""
        shape = self[name]

        def fill() -> np.ndarray:
            from llmrun.migrate.numerics import initial_value

            return initial_value(self._model, name, self._seed)

        return Fresh(shape, fill)

    def zeros(self, name: str) -> Fresh:
        """Zeros with the shape of `name`."""
        shape = self[name]
        return Fresh(shape, lambda: np.zeros(shape, dtype=np.float32))

    def array(self, values: object) -> Fresh:
        """Values computed by the script, kept in memory until they are written."""
        with np.errstate(over="ignore"):  # values out of fp32's range are refused when the state is checked
            fixed = np.array(values, dtype=np.float32)
        return Fresh(fixed.shape, fixed.copy)

    def missing(self, state: Iterable[str]) -> list[str]:
        """The names of the new model that `state` does not have."""
        have = set(state)
        return [name for name in self if name not in have]


def as_float32(values: npt.NDArray[np.generic], dtype: str) -> Array:
    """Convert values of a safetensors type to float32.  Raises TypeError for other than floating-point types."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype not in ("F16", "F32", "F64"):
        raise TypeError(f"the type of a parameter must be BF16, F16, F32 or F64, got {dtype}: leave it out")
    return values.astype(np.float32, copy=False)


def caller_line() -> int | None:
    """The line of the script that calls into this package."""
    frame = inspect.currentframe()
    while frame is not None and str(Path(frame.f_code.co_filename).parent) == _HERE:
        frame = frame.f_back
    return None if frame is None else frame.f_lineno
