"""The seam between llmrun and a model: `ModelSpec` is all that training, checkpoints and planning know of one.

`TransformerSpec`, the built-in model, is its one implementation.  Nothing here imports torch before a model is built, so
that the launcher and the planner can hold a spec too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from llmrun.core.model.flops import flops_per_token
from llmrun.core.model.parameters import count_parameters, parameter_shapes
from llmrun.core.model.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor, nn


class LanguageModel(Protocol):
    """A built model: an `nn.Module` whose forward pass returns the sum of its losses."""

    def __call__(self, tokens: "Tensor") -> "tuple[Tensor, int]":
        """The loss of one micro-batch.

        tokens: [sequences, L_ctx + 1], int64.
        Returns (sum of the token losses: scalar, float32, natural log; number of target tokens).
        """
        ...

    def named_parameters(self) -> "Iterator[tuple[str, nn.Parameter]]":
        """Parameters by name, in the order of `ModelSpec.parameters`; names key initialisation, digests and files."""
        ...

    def named_buffers(self) -> "Iterator[tuple[str, Tensor]]":
        """Buffers; none is persistent."""
        ...

    def train(self) -> object:
        """Switch dropout on."""
        ...

    def eval(self) -> object:
        """Switch dropout off."""
        ...


class NextTokenModel(Protocol):
    """A built model that `llmrun sample` can draw from."""

    def logits(self, tokens: "Tensor") -> "Tensor":
        """Next-token logits: [sequences, L], int64 -> [sequences, L, vocab_size]."""
        ...


class ModelSpec(Protocol):
    """A model before it is built.

    parameters:      name to shape of every parameter, in the order in which the model registers them; float32.
    n_parameters:    elements of all of them, without listing them.
    blocks:          names of the submodules that are sharded and recomputed one by one, in forward order.
    flops_per_token: FLOPs of forward and backward for one token; None if unknown, then no MFU is reported.
    shape:           the built-in transformer's dimensions, from which the planner derives FLOPs by part and the bytes of
                     activations; None for any other model, whose activations the planner does not know.
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
    def shape(self) -> ModelShape | None: ...  # noqa: D102

    def build(self, *, recompute_blocks: bool) -> "nn.Module":
        """A `LanguageModel` with its parameters on the meta device and its buffers on the CPU, filled.

        recompute_blocks: activation checkpointing of every block; changes no bit.
        """
        ...

    def initialise(self, name: str, parameter: "nn.Parameter", seed: int) -> None:
        """Fill one parameter with its initial values: a function of the seed and the name alone."""
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


def model_spec(model: Mapping[str, Any], L_ctx: int) -> ModelSpec:
    """The spec that the numeric fields of a completed `model` section ask for."""
    return TransformerSpec(ModelShape.of(model, L_ctx))
