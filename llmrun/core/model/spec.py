"""The seam between llmrun and a model: `ModelSpec` is all that training, checkpoints and planning know of one.

`TransformerSpec` is the built-in model, `FactorySpec` the user's own.  Nothing here imports torch before a model is built,
so that the launcher and the planner can hold a spec too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast

from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.facts import FactoryCall
from llmrun.core.model.flops import flops_per_token
from llmrun.core.model.language_model import NextTokenModel
from llmrun.core.model.parameters import count_parameters, parameter_shapes
from llmrun.core.model.shape import ModelShape

if TYPE_CHECKING:
    from torch import nn


class ModelSpec(Protocol):
    """A model before it is built.

    parameters:      name to shape of every parameter, in the order in which the model registers them; float32.
    n_parameters:    elements of all of them, without listing them.
    frozen:          names of the parameters that training does not change.
    blocks:          names of the submodules that are sharded and recomputed one by one, in forward order.
    flops_per_token: FLOPs of forward and backward for one token; None if unknown, then no MFU is reported.
    """

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102

    @property
    def n_parameters(self) -> int: ...  # noqa: D102

    @property
    def blocks(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def flops_per_token(self) -> int | None: ...  # noqa: D102

    @property
    def frozen(self) -> frozenset[str]: ...  # noqa: D102

    def build(self, *, recompute_blocks: bool) -> "nn.Module":
        """A `LanguageModel` with its parameters on the meta device and its buffers on the CPU, filled.

        recompute_blocks: activation checkpointing of every block; changes no bit.
        """
        ...

    def initialise(self, name: str, parameter: "nn.Parameter", seed: int) -> None:
        """Fill one parameter with its initial values: a function of the seed and the name alone."""
        ...

    def next_token(self, model: "nn.Module") -> NextTokenModel:
        """A model that `build` has made, to draw tokens from."""
        ...


@dataclass(frozen=True)
class TransformerSpec:
    """The built-in decoder-only transformer as a `ModelSpec`."""

    shape: ModelShape

    @cached_property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """See `ModelSpec`."""
        return parameter_shapes(self.shape)

    @property
    def n_parameters(self) -> int:
        """See `ModelSpec`."""
        return count_parameters(self.shape).N_params_total

    @property
    def frozen(self) -> frozenset[str]:
        """See `ModelSpec`: none."""
        return frozenset()

    @property
    def blocks(self) -> tuple[str, ...]:
        """See `ModelSpec`."""
        return tuple(f"model.layers.{layer}" for layer in range(self.shape.n_layers))

    @property
    def flops_per_token(self) -> int | None:
        """See `ModelSpec`."""
        return flops_per_token(self.shape)

    def build(self, *, recompute_blocks: bool) -> "nn.Module":
        """See `ModelSpec.build`."""
        import torch

        from llmrun.core.model.transformer import Transformer

        with torch.device("meta"):
            return Transformer(self.shape, recompute_blocks=recompute_blocks)

    def initialise(self, name: str, parameter: "nn.Parameter", seed: int) -> None:
        """See `ModelSpec.initialise`."""
        from llmrun.core.model.initialise import initialise

        initialise(name, parameter, seed, self.shape.n_layers)

    def next_token(self, model: "nn.Module") -> NextTokenModel:
        """See `ModelSpec.next_token`."""
        return cast("NextTokenModel", model)


def model_spec(model: Mapping[str, Any], L_ctx: int, seed: int) -> ModelSpec:
    """The spec that the numeric fields of a completed `model` section ask for."""
    if model.get("factory") is not None:
        args = model.get("args") or {}
        return FactorySpec(FactoryCall(model["factory"], args, model["vocab_size"], L_ctx, seed))
    return TransformerSpec(ModelShape.of(model, L_ctx))
