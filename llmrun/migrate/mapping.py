"""What a script returned, held against the new model: nothing unknown, nothing forgotten, shapes that fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrun.errors import InputError
from llmrun.migrate.script import FUNCTION, Script, blamed
from llmrun.migrate.target import NewModel
from llmrun.migrate.tensors import Array, Derived, NoSuchTensor, OldState, Tensor
from llmrun.text import counted, cut

SHOWN_MAX = 8


@dataclass(frozen=True)
class Mapped:
    """The new state, in the order of the new model, and what became of the old one."""

    script: Script
    tensors: Mapping[str, Tensor]
    old: OldState
    new: NewModel

    @property
    def initialised(self) -> list[str]:
        """Parameters that hold nothing of the old checkpoint."""
        return [name for name, tensor in self.tensors.items() if not tensor.sources]

    @property
    def mixed(self) -> list[str]:
        """Parameters in which old values and new ones stand side by side."""
        return [name for name, tensor in self.tensors.items() if tensor.sources and tensor.is_fresh]

    @property
    def without_moments(self) -> list[str]:
        """Parameters made of old values whose moments are zeros all the same."""
        return [name for name, tensor in self.tensors.items() if tensor.sources and not tensor.keeps_moments]

    @property
    def dropped(self) -> list[str]:
        """Old parameters that nothing was made of."""
        used = frozenset().union(*(tensor.sources for tensor in self.tensors.values()))
        return [name for name in self.old if name not in used]

    def values(self, name: str, slot: str | None) -> Array:
        """The values of a new parameter (None) or of its moment, float32, checked.  Raises InputError."""
        tensor, what = self.tensors[name], name if slot is None else f"{name}.{slot}"
        with blamed(self.script, f"it made {what}", tensor.line):
            values = tensor.values(slot)
        if values.shape != self.new[name]:
            raise self._wrong(
                f"{what} has the shape {values.shape}, the new model wants {self.new[name]}", tensor
            )
        if not np.isfinite(values).all():
            raise self._wrong(f"{what} holds values that are not finite", tensor)
        if slot == "exp_avg_sq" and (values < 0).any():
            raise self._wrong(f"{what} holds negative values, and is a mean of squares", tensor)
        return values

    def _wrong(self, message: str, tensor: Tensor) -> InputError:
        return InputError(message, where=self.script.where(tensor.line))


def mapped(script: Script, returned: Mapping[Any, Any], line: int, old: OldState, new: NewModel) -> Mapped:
    """What the script returned, as far as it can be checked without reading values.

    line: where the script's function is defined.  Raises InputError.
    """
    problems = [*_strange(returned), *_unknown(returned, new)]
    missing = new.missing(returned)
    if problems:
        raise _refusal(f"{FUNCTION} returned what the new model cannot take", problems, script, line)
    if missing:
        lines = [f"{name} {new[name]} is missing" for name in missing]
        hint = "`state[name] = new.init(name)` or `new.zeros(name)` makes a new one; `new.missing(state)` lists them"
        raise _refusal(
            f"{FUNCTION} forgot {counted(len(missing), 'tensor')} of the new model",
            lines,
            script,
            line,
            [hint],
        )
    tensors = {name: returned[name] for name in new}
    misfits = [
        (f"{name} has the shape {tensor.shape}, the new model wants {new[name]}", tensor.line)
        for name, tensor in tensors.items()
        if not isinstance(tensor, Derived) and tensor.shape != new[name]
    ]
    if misfits:
        at = next((made for _, made in misfits if made is not None), line)
        hint = "`old[name].apply(function, ...)` makes another shape of a tensor, and of its moments"
        raise _refusal(
            f"{len(misfits)} shapes do not fit", [message for message, _ in misfits], script, at, [hint]
        )
    return Mapped(script, tensors, old, new)


def _strange(returned: Mapping[Any, Any]) -> Iterator[str]:
    for name, tensor in returned.items():
        if not isinstance(name, str):
            yield f"a name is {type(name).__name__}, not a string"
        elif not isinstance(tensor, Tensor):
            yield f"{name} is {type(tensor).__name__}, not a tensor: `new.array(values)` makes one"


def _unknown(returned: Mapping[Any, Any], new: NewModel) -> Iterator[str]:
    for name in returned:
        if isinstance(name, str) and name not in new:
            yield NoSuchTensor("new", name, new).message


def _refusal(
    message: str, lines: Sequence[str], script: Script, line: int, hints: Sequence[str] = ()
) -> InputError:
    """One problem is the message itself; of several the first eight are shown."""
    where = script.where(line)
    if len(lines) == 1:
        return InputError(lines[0], where=where, hints=hints)
    return InputError(message, where=where, caused_by=cut(lines, SHOWN_MAX), hints=hints)
