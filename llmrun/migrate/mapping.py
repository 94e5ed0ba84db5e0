"""Checks what a migration script returned against the new model: names, types and shapes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrun.errors import InputError
from llmrun.migrate.script import FUNCTION, Script, script_errors
from llmrun.migrate.tensors import Array, Derived, NewModel, NoSuchTensor, OldState, Tensor
from llmrun.text import cut

SHOWN_MAX = 8


@dataclass(frozen=True)
class Mapped:
    """The new state, in the order of the new model, and what it is made of."""

    script: Script
    tensors: Mapping[str, Tensor]
    old: OldState
    new: NewModel

    @property
    def initialised(self) -> list[str]:
        """Parameters without values from the old checkpoint."""
        return [name for name, tensor in self.tensors.items() if not tensor.sources]

    @property
    def mixed(self) -> list[str]:
        """Parameters with both old and new values."""
        return [name for name, tensor in self.tensors.items() if tensor.sources and tensor.is_fresh]

    @property
    def without_moments(self) -> list[str]:
        """Parameters made of old values whose moments are zeros, at least one of them."""
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.sources and not tensor.moments.issuperset(self.new.moments[name])
        ]

    @property
    def dropped(self) -> list[str]:
        """Old parameters that are not used."""
        used = frozenset().union(*(tensor.sources for tensor in self.tensors.values()))
        return [name for name in self.old if name not in used]

    def values(self, name: str, slot: str | None) -> Array:
        """Compute and check the values of a new parameter (slot None) or of its moment `slot`, float32.

        Raises InputError.
        """
        tensor, what = self.tensors[name], name if slot is None else f"{name}.{slot}"
        with script_errors(self.script, f"computing {what}", tensor.line):
            values = tensor.values(slot)
        if values.shape != self.new[name]:
            raise self._wrong(f"the shape of {what} must be {self.new[name]}, got {values.shape}", tensor)
        if not np.isfinite(values).all():
            raise self._wrong(f"the values of {what} must be finite", tensor)
        if slot == "exp_avg_sq" and (values < 0).any():
            raise self._wrong(f"the values of {what}, a mean of squares, must not be negative", tensor)
        return values

    def _wrong(self, message: str, tensor: Tensor) -> InputError:
        return InputError(message, where=self.script.where(tensor.line))


def mapped(script: Script, returned: Mapping[Any, Any], line: int, old: OldState, new: NewModel) -> Mapped:
    """Check what the script returned, as far as possible without computing values.

    line: where the script's function is defined.  Raises InputError.
    """
    problems = [*_wrong_types(returned), *_unknown_names(returned, new)]
    missing = new.missing(returned)
    if problems:
        raise _refusal(f"{FUNCTION} returned {len(problems)} invalid entries", problems, script, line)
    if missing:
        lines = [f"{name} of shape {new[name]} is missing" for name in missing]
        hint = "`state[name] = new.init(name)` or `new.zeros(name)` makes one; `new.missing(state)` lists their names"
        raise _refusal(
            f"{FUNCTION} must return every tensor of the new model: {len(missing)} are missing",
            lines,
            script,
            line,
            [hint],
        )
    tensors = {name: returned[name] for name in new}
    misfits = [
        (f"the shape of {name} must be {new[name]}, got {tensor.shape}", tensor.line)
        for name, tensor in tensors.items()
        if not isinstance(tensor, Derived) and tensor.shape != new[name]
    ]
    if misfits:
        at = next((made for _, made in misfits if made is not None), line)
        hint = "`old[name].apply(function, ...)` changes the shape of a tensor and of its moments"
        raise _refusal(
            f"{len(misfits)} shapes do not fit the new model",
            [message for message, _ in misfits],
            script,
            at,
            [hint],
        )
    return Mapped(script, tensors, old, new)


def _wrong_types(returned: Mapping[Any, Any]) -> Iterator[str]:
    for name, tensor in returned.items():
        if not isinstance(name, str):
            yield f"a name must be a string, got {type(name).__name__}"
        elif not isinstance(tensor, Tensor):
            yield f"{name} must be a tensor (`new.array(values)` makes one), got {type(tensor).__name__}"


def _unknown_names(returned: Mapping[Any, Any], new: NewModel) -> Iterator[str]:
    for name in returned:
        if isinstance(name, str) and name not in new:
            yield NoSuchTensor("new", name, new).message


def _refusal(
    message: str, lines: Sequence[str], script: Script, line: int, hints: Sequence[str] = ()
) -> InputError:
    """The error for problems: a single one is its message, of several the first SHOWN_MAX are listed."""
    where = script.where(line)
    if len(lines) == 1:
        return InputError(lines[0], where=where, hints=hints)
    return InputError(message, where=where, caused_by=cut(lines, SHOWN_MAX), hints=hints)
