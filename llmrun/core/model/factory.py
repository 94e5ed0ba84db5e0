"""The user's own model as a `ModelSpec`: a function of the user's that returns an `nn.Module`.

Nothing here imports torch before a model is built, so that the launcher and the planner can hold a spec too: they give
the facts that another process has read (`known`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from llmrun.core.model.facts import FactoryCall, ModelFacts
from llmrun.core.model.language_model import NextTokenModel

if TYPE_CHECKING:
    from torch import nn

    from llmrun.core.model.foreign import InitialValues


@dataclass(frozen=True)
class FactorySpec:
    """A model that a factory makes.  known: its facts, if another process has read them."""

    call: FactoryCall
    known: ModelFacts | None = field(default=None, compare=False)

    @cached_property
    def facts(self) -> ModelFacts:
        """Names, shapes, blocks.  Constructs the module, without memory for its parameters, if they are not known."""
        if self.known is not None:
            return self.known
        from llmrun.core.model.foreign import read_facts

        return read_facts(self.call)

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """See `ModelSpec`."""
        return self.facts.parameters

    @property
    def n_parameters(self) -> int:
        """See `ModelSpec`."""
        return self.facts.n_parameters

    @property
    def frozen(self) -> frozenset[str]:
        """See `ModelSpec`."""
        return frozenset(self.facts.frozen)

    @property
    def blocks(self) -> tuple[str, ...]:
        """See `ModelSpec`."""
        return self.facts.blocks

    @property
    def flops_per_token(self) -> int | None:
        """See `ModelSpec`: unknown."""
        return None

    @cached_property
    def _initial(self) -> "InitialValues":
        """The initial values that were not taken yet."""
        from llmrun.core.model.foreign import InitialValues

        return InitialValues(self.call, fills_itself=self.facts.fills_itself)

    def build(self, *, recompute_blocks: bool) -> "nn.Module":
        """See `ModelSpec.build`.  Raises InputError if the factory does not give a model that can be trained."""
        from llmrun.core.model.foreign import build

        return build(self.call, self.facts, self._initial, recompute_blocks=recompute_blocks)

    def initialise(self, name: str, parameter: "nn.Parameter", seed: int) -> None:
        """See `ModelSpec.initialise`."""
        assert seed == self.call.seed, "the module was constructed with another seed"
        self._initial.fill(name, parameter)

    def next_token(self, model: "nn.Module") -> NextTokenModel:
        """See `ModelSpec.next_token`."""
        from llmrun.core.model.foreign import Logits

        return Logits(model, self.call.vocab_size)
