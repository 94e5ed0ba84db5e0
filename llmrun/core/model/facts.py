"""How a user's model is made, and what is known of it without its code: names, shapes, blocks (no torch).

The launcher and the planner hold a `ModelFacts` that another process has read from the constructed module.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Self

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FactoryCall:
    """How a model is made.

    factory: `package.module:function`.
    args:    `model.args`, JSON values.
    seed:    of the run: the module is constructed under the stream `[seed, "init"]`.
    """

    factory: str
    args: Mapping[str, Any]
    vocab_size: int
    L_ctx: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class BufferFacts:
    """One buffer.  dtype: as torch names it, without `torch.`.  persistent: whether the module's state dict holds it."""

    dtype: str
    shape: Shape
    persistent: bool


@dataclass(frozen=True)
class ModelFacts:
    """A model that a factory has made.

    kind:       the class of the module.
    parameters: name to shape of every parameter, in the order in which the module registers them; all float32.
    tied:       further names of parameters that several modules share, each to its first name.
    blocks:     names of the submodules that are sharded and recomputed one by one.
    frozen:     parameters that do not require gradients.
    tables:     parameters that `N_params` leaves out: those of `nn.Embedding`, and of linear layers outside the blocks
                with at least vocab_size outputs.
    buffers:    by name.
    shadowed:   files beside the model's that have the name of another module, which Python imports instead.
    fills_itself: whether the module has `llmrun_init`, which fills one parameter at a time.
    """

    kind: str
    parameters: Mapping[str, Shape]
    tied: Mapping[str, str]
    blocks: tuple[str, ...]
    frozen: tuple[str, ...]
    tables: tuple[str, ...]
    buffers: Mapping[str, BufferFacts]
    fills_itself: bool
    shadowed: tuple[str, ...] = field(default=(), compare=False)

    @property
    def n_parameters(self) -> int:
        """Elements of all parameters, each counted once."""
        return sum(prod(shape) for shape in self.parameters.values())

    @property
    def n_table_parameters(self) -> int:
        """Elements of `tables`."""
        return sum(prod(self.parameters[name]) for name in self.tables)

    def block_of(self, parameter: str) -> str | None:
        """The block that a parameter belongs to, by its name; None if it is outside the blocks."""
        return next((block for block in self.blocks if parameter.startswith(f"{block}.")), None)

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Self:
        """The facts that `as_json` wrote."""
        return cls(
            kind=document["kind"],
            parameters={name: tuple(shape) for name, shape in document["parameters"].items()},
            tied=dict(document["tied"]),
            blocks=tuple(document["blocks"]),
            frozen=tuple(document["frozen"]),
            tables=tuple(document["tables"]),
            buffers={
                name: BufferFacts(found["dtype"], tuple(found["shape"]), found["persistent"])
                for name, found in document["buffers"].items()
            },
            fills_itself=document["fills_itself"],
            shadowed=tuple(document["shadowed"]),
        )
