"""The transformer's shape with every default put in."""

from dataclasses import dataclass
from typing import Literal

from llmrun.config.schema import ModelConfig


@dataclass(frozen=True)
class Beyond:
    """What a published model has and the built-in one has not: such a shape is for planning only.

    position_rows:      rows of the position table beside those of L_ctx.
    table_norm:         a norm right after the token table.
    one_norm:           attention and MLP share one norm of a block.
    relative_attention: one more d_model × d_model projection in each block.
    says:               what does not change the number of parameters.
    """

    position_rows: int = 0
    table_norm: bool = False
    one_norm: bool = False
    relative_attention: bool = False
    says: tuple[str, ...] = ()

    def described(self) -> str:
        """All of it in words."""
        found = {
            f"{self.position_rows} more rows in the position table": self.position_rows > 0,
            "a norm after the token table": self.table_norm,
            "one norm for attention and MLP": self.one_norm,
            "a projection of relative positions": self.relative_attention,
        }
        return ", ".join([*(says for says, has in found.items() if has), *self.says])


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer, complete: what `plan` counts and what `model` builds.

    beyond: None where the built-in model can train it.
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

    @property
    def d_q(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def d_kv(self) -> int:
        """Width of all key (or value) heads together."""
        return self.n_kv_heads * self.head_dim


def default_d_ff(d_model: int, mlp: str) -> int:
    """4·d_model for gelu; 8/3·d_model rounded up to a multiple of 64 for swiglu (equal parameters)."""
    return 4 * d_model if mlp == "gelu" else -(-8 * d_model // (3 * 64)) * 64


def complete_model(model: ModelConfig, vocab_size: int) -> ModelConfig:
    """`model` with its derived fields written out.  Cross-field rules must hold already.

    A preset that the built-in model can train is written out like any other shape, so its name is dropped:
    two configs of one shape are one experiment.
    """
    preset = model.preset if beyond_of(model) else None
    return model.model_copy(
        update={
            "preset": preset,
            "n_kv_heads": model.n_kv_heads or model.n_heads,
            "head_dim": model.head_dim or model.d_model // model.n_heads,
            "d_ff": model.d_ff or default_d_ff(model.d_model, model.mlp),
            "vocab_size": vocab_size,
        }
    )


def shape_of(model: ModelConfig, L_ctx: int) -> ModelShape:
    """The shape of a completed model section."""
    return ModelShape(L_ctx=L_ctx, beyond=beyond_of(model), **model.model_dump(exclude={"preset"}))


def beyond_of(model: ModelConfig) -> Beyond | None:
    """What the model's preset has and the built-in model has not; None without such a preset."""
    if model.preset is None:
        return None
    from llmrun.config.presets import preset_table

    return preset_table()[model.preset].beyond
