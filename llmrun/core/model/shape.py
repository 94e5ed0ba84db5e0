"""The dimensions and switches of a transformer, every default filled in (no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

NOT_OF_SHAPE = ("preset", "factory", "args", "import_root")
"""Fields of the `model` section that are no dimension of the built-in transformer."""


@dataclass(frozen=True)
class Beyond:
    """Features of a published model that the built-in one lacks: such a shape is for planning only.

    position_rows:      rows of the position table in addition to L_ctx.
    table_norm:         a norm right after the token table.
    one_norm:           attention and MLP share one norm of a block.
    relative_attention: one more d_model × d_model projection in each block.
    message:            features that do not change the number of parameters, in words.
    """

    position_rows: int = 0
    table_norm: bool = False
    one_norm: bool = False
    relative_attention: bool = False
    message: tuple[str, ...] = ()

    def described(self) -> str:
        """All features, comma-separated, for messages."""
        found = {
            f"{self.position_rows} more rows in the position table": self.position_rows > 0,
            "a norm after the token table": self.table_norm,
            "one norm for attention and MLP": self.one_norm,
            "a projection of relative positions": self.relative_attention,
        }
        return ", ".join([*(message for message, has in found.items() if has), *self.message])


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer: `plan` counts it, `TransformerSpec` builds it.

    beyond: None if the built-in model can train it.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    tie_embeddings: bool
    mlp: Literal["swiglu", "gelu"]
    norm: Literal["rmsnorm", "layernorm"]
    norm_eps: float
    position: Literal["rope", "learned", "alibi", "none"]
    rope_theta: float
    bias: bool
    qkv_bias: bool
    qk_norm: bool
    dropout: float
    L_ctx: int
    beyond: Beyond | None = None

    @classmethod
    def of(cls, model: Mapping[str, Any], L_ctx: int, beyond: Beyond | None = None) -> Self:
        """The shape from the fields of a completed `model` section."""
        own = {name: value for name, value in model.items() if name not in NOT_OF_SHAPE}
        return cls(L_ctx=L_ctx, beyond=beyond, **own)

    @property
    def d_q(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def d_kv(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.head_dim
