"""The transformer's shape with every default put in."""

from dataclasses import dataclass
from typing import Literal

from llmrun.config.sections import ModelConfig


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer, complete: what `plan` counts and what `model` builds."""

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
    """`model` with its derived fields written out.  Cross-field rules must hold already."""
    return model.model_copy(
        update={
            "n_kv_heads": model.n_kv_heads or model.n_heads,
            "head_dim": model.head_dim or model.d_model // model.n_heads,
            "d_ff": model.d_ff or default_d_ff(model.d_model, model.mlp),
            "vocab_size": vocab_size,
        }
    )


def shape_of(model: ModelConfig, L_ctx: int) -> ModelShape:
    """The shape of a completed model section."""
    return ModelShape(L_ctx=L_ctx, **model.model_dump())
