"""The model to migrate to, as a script sees it: names, shapes, and ways to fill what is new."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from llmrun.core.model.spec import ModelSpec
from llmrun.migrate.tensors import Fresh, NoSuchTensor, Shape


class NewModel(Mapping[str, Shape]):
    """Name to shape of every parameter of the new model, in the order in which it registers them."""

    def __init__(self, model: ModelSpec, seed: int) -> None:
        self._model, self._shapes, self._seed = model, model.parameters, seed

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
        """The initial values that a run from this config would give `name`: from its own random stream."""
        shape = self[name]

        def fill() -> np.ndarray:
            from llmrun.migrate.numbers import initial_value

            return initial_value(self._model, name, self._seed)

        return Fresh(shape, "init", fill)

    def zeros(self, name: str) -> Fresh:
        """Zeros in the shape of `name`."""
        shape = self[name]
        return Fresh(shape, "zeros", lambda: np.zeros(shape, dtype=np.float32))

    def array(self, values: object) -> Fresh:
        """Values that the script made itself, kept in memory until they are written."""
        with np.errstate(over="ignore"):  # what fp32 cannot hold is refused where the state is checked
            fixed = np.array(values, dtype=np.float32)
        return Fresh(fixed.shape, "array", fixed.copy)

    def missing(self, state: Iterable[str]) -> list[str]:
        """The names that the new model has and `state` has not."""
        have = set(state)
        return [name for name in self if name not in have]
