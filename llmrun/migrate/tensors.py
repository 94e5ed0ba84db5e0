"""What a migration script handles: parameters with their moments, read only when they are written.

So a checkpoint of any size needs the memory of the tensors that are being written, never of all of them.
Values are always float32, as training keeps them.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmrun.storage.checkpoint.reader import Checkpoint

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

_HERE = str(Path(__file__).parent)


class NoSuchTensor(KeyError):
    """A script asked for a tensor that is not there."""

    def __init__(self, whose: str, name: object, known: Mapping[str, object]) -> None:
        near = get_close_matches(str(name), known, n=1)
        self.message = f"the {whose} model has no tensor {name}" + (
            f"; the nearest is {near[0]}" if near else ""
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class Tensor:
    """A parameter with its moments; nothing of it is in memory.

    sources: names of the old parameters that it is made of.
    is_fresh: whether it holds values that are not of the old checkpoint.
    keeps_moments: whether its moments come from the old checkpoint; else they are zeros.
    line: of the script that made it; None for an old tensor.
    """

    sources: frozenset[str]
    is_fresh: bool
    keeps_moments: bool
    line: int | None

    @property
    def shape(self) -> Shape:
        """The shape."""
        raise NotImplementedError

    def read(self) -> Array:
        """The parameter's values, float32, a copy of your own."""
        return self.values(None)

    def values(self, slot: str | None) -> Array:
        """The parameter (None) or its moment `slot`: float32, a new array."""
        raise NotImplementedError

    def apply(self, function: Callable[..., object], *others: "Tensor", moments: bool = True) -> "Tensor":
        """The tensor `function(values, *values of others)`, computed when it is written.

        function: takes and returns numpy arrays; may change those that it is given.
        moments:  call it for each moment as well: right for whatever moves elements (slices, padding,
                  transposing, concatenating), wrong for arithmetic.  False: the moments are zeros.
        """
        return Derived(function, (self, *others), moments=moments)


class Old(Tensor):
    """A parameter of the old checkpoint."""

    is_fresh = False
    line = None

    def __init__(self, checkpoint: Checkpoint, name: str, slots: tuple[str, ...]) -> None:
        self.name = name
        self.sources = frozenset({name})
        self._checkpoint = checkpoint
        self.keeps_moments = all(self._has(slot) for slot in slots)

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
        """See `Tensor.values`; zeros for a moment that was not saved."""
        if slot is not None and not self._has(slot):
            return np.zeros(self.shape, dtype=np.float32)
        name = self.name if slot is None else f"{self.name}.{slot}"
        return as_float32(self._checkpoint.read_all(name), self._checkpoint.tensor(name).dtype)


class Fresh(Tensor):
    """A parameter initialised anew; its moments are zeros.

    how: for the record: `init`, `zeros`, or `array` (values from the script).
    """

    sources = frozenset()
    is_fresh = True
    keeps_moments = False

    def __init__(self, shape: Shape, how: str, fill: Callable[[], Array]) -> None:
        self.how = how
        self.line = caller_line()
        self._shape, self._fill = shape, fill

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self._shape

    def values(self, slot: str | None) -> Array:
        """See `Tensor.values`."""
        return self._fill() if slot is None else np.zeros(self._shape, dtype=np.float32)


class Derived(Tensor):
    """What a function of the script makes of other tensors."""

    def __init__(
        self, function: Callable[..., object], operands: tuple[Tensor, ...], *, moments: bool
    ) -> None:
        for operand in operands:
            if not isinstance(operand, Tensor):
                raise TypeError(f"apply takes tensors, not {type(operand).__name__}: use `new.array`")
        self.sources = frozenset().union(*(operand.sources for operand in operands))
        self.is_fresh = any(operand.is_fresh for operand in operands)
        self.keeps_moments = moments and any(operand.keeps_moments for operand in operands)
        self.line = caller_line()
        self._function, self._operands = function, operands
        self._shape: Shape | None = None

    @property
    def shape(self) -> Shape:
        """The shape, known once the values were made."""
        return self.read().shape if self._shape is None else self._shape

    def values(self, slot: str | None) -> Array:
        """See `Tensor.values`."""
        if slot is not None and not self.keeps_moments:
            return np.zeros(self.shape, dtype=np.float32)
        made = self._function(*(operand.values(slot) for operand in self._operands))
        values = np.ascontiguousarray(made, dtype=np.float32)
        self._shape = values.shape
        return values


class OldState(Mapping[str, Old]):
    """The parameters of the old checkpoint by name: all tensors but the moments, which go along."""

    def __init__(self, checkpoint: Checkpoint, slots: tuple[str, ...]) -> None:
        self._tensors = {
            name: Old(checkpoint, name, slots)
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


def as_float32(values: npt.NDArray[np.generic], dtype: str) -> Array:
    """The values of a tensor of a safetensors type as float32.  Raises TypeError where that is no float."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype not in ("F16", "F32", "F64"):
        raise TypeError(f"a tensor of type {dtype} is no parameter: leave it out")
    return values.astype(np.float32, copy=False)


def caller_line() -> int | None:
    """The line of the script that is calling into this package."""
    frame = inspect.currentframe()
    while frame is not None and str(Path(frame.f_code.co_filename).parent) == _HERE:
        frame = frame.f_back
    return None if frame is None else frame.f_lineno
