"""Derived fields of the config's model section, and the ModelShape that it describes."""

from llmrun.config.presets import preset_table
from llmrun.config.schema import ModelConfig
from llmrun.core.model.shape import Beyond, ModelShape


def default_d_ff(d_model: int, mlp: str) -> int:
    """4·d_model for gelu; 8/3·d_model rounded up to a multiple of 64 for swiglu (equal parameters)."""
    return 4 * d_model if mlp == "gelu" else -(-8 * d_model // (3 * 64)) * 64


def complete_model(model: ModelConfig, vocab_size: int) -> ModelConfig:
    """`model` with its derived fields filled in; the rules across fields must hold.

    The name of a trainable preset is dropped: configs of the same shape then have the same fingerprint.
    """
    if model.factory is not None:
        return model.model_copy(update={"vocab_size": vocab_size})
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
    return ModelShape.of(model.model_dump(), L_ctx, beyond_of(model))


def beyond_of(model: ModelConfig) -> Beyond | None:
    """What the preset has and the built-in model does not support, or None if it is trainable."""
    return None if model.preset is None else preset_table()[model.preset].beyond
