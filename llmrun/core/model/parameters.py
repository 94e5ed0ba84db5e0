"""The parameters of the transformer by name and shape, and their number (no torch).

Names and shapes are those of Hugging Face's Llama; if Llama has no such parameter (biases, learned positions), the
name follows the same pattern.  The model registers its parameters in exactly this order.
"""

from math import prod
from typing import NamedTuple

from llmrun.core.model.shape import ModelShape

EMBED_TOKENS = "model.embed_tokens.weight"
EMBED_POSITIONS = "model.embed_positions.weight"
FINAL_NORM = "model.norm"
HEAD = "lm_head.weight"

Shape = tuple[int, ...]


class ParameterCount(NamedTuple):
    """Numbers of parameters by part.

    N_params:       blocks and final norm (and the norm of a token table), without token and position tables and output head.
    N_params_total: everything once.
    block:          one transformer block.
    embedding:      token table and position table.
    head:           output head; 0 if it shares the token table.
    """

    N_params: int
    N_params_total: int
    block: int
    embedding: int
    head: int


def parameter_shapes(shape: ModelShape) -> dict[str, Shape]:
    """Name to shape of every parameter, in the order in which the model registers them."""
    shapes = table_shapes(shape)
    block = block_shapes(shape)
    for layer in range(shape.n_layers):
        shapes.update({f"model.layers.{layer}.{name}": size for name, size in block.items()})
    return shapes | _norm(FINAL_NORM, shape) | head_shapes(shape)


def table_shapes(shape: ModelShape) -> dict[str, Shape]:
    """The token table, and the position table if positions are learned."""
    tables: dict[str, Shape] = {EMBED_TOKENS: (shape.vocab_size, shape.d_model)}
    if shape.position == "learned":
        tables[EMBED_POSITIONS] = (shape.L_ctx, shape.d_model)
    return tables


def head_shapes(shape: ModelShape) -> dict[str, Shape]:
    """The output head; empty if it shares the token table.  It never has a bias."""
    return {} if shape.tie_embeddings else {HEAD: (shape.vocab_size, shape.d_model)}


def block_shapes(shape: ModelShape) -> dict[str, Shape]:
    """The parameters of one block, named relative to it."""
    return (
        _norm("input_layernorm", shape)
        | _attention(shape)
        | _norm("post_attention_layernorm", shape)
        | _mlp(shape)
    )


def _attention(shape: ModelShape) -> dict[str, Shape]:
    """Projections q, k, v, o, then the norms of query and key heads."""
    qkv_bias = shape.bias or shape.qkv_bias
    shapes = (
        _linear("self_attn.q_proj", shape.d_q, shape.d_model, qkv_bias)
        | _linear("self_attn.k_proj", shape.d_kv, shape.d_model, qkv_bias)
        | _linear("self_attn.v_proj", shape.d_kv, shape.d_model, qkv_bias)
        | _linear("self_attn.o_proj", shape.d_model, shape.d_q, shape.bias)
    )
    if shape.qk_norm:
        shapes["self_attn.q_norm.weight"] = (shape.head_dim,)
        shapes["self_attn.k_norm.weight"] = (shape.head_dim,)
    return shapes


def _mlp(shape: ModelShape) -> dict[str, Shape]:
    """Gate (swiglu only), up and down projections."""
    gate = _linear("mlp.gate_proj", shape.d_ff, shape.d_model, shape.bias) if shape.mlp == "swiglu" else {}
    return (
        gate
        | _linear("mlp.up_proj", shape.d_ff, shape.d_model, shape.bias)
        | _linear("mlp.down_proj", shape.d_model, shape.d_ff, shape.bias)
    )


def _linear(name: str, n_out: int, n_in: int, bias: bool) -> dict[str, Shape]:
    """A projection: weight [out, in], then bias [out]."""
    weight: dict[str, Shape] = {f"{name}.weight": (n_out, n_in)}
    return weight | {f"{name}.bias": (n_out,)} if bias else weight


def _norm(name: str, shape: ModelShape) -> dict[str, Shape]:
    """A norm over the residual stream; only a LayerNorm has a bias, and only if the model has biases."""
    weight: dict[str, Shape] = {f"{name}.weight": (shape.d_model,)}
    has_bias = shape.norm == "layernorm" and shape.bias
    return weight | {f"{name}.bias": (shape.d_model,)} if has_bias else weight


def count_parameters(shape: ModelShape) -> ParameterCount:
    """Exact counts, `beyond` included, in time that does not grow with the number of layers."""
    block = _elements(block_shapes(shape))
    embedding = _elements(table_shapes(shape))
    head = _elements(head_shapes(shape))
    norms = norm = _elements(_norm(FINAL_NORM, shape))
    if (beyond := shape.beyond) is not None:
        block += shape.d_model**2 * beyond.relative_attention - norm * beyond.one_norm
        embedding += shape.d_model * beyond.position_rows
        norms += norm * beyond.table_norm
    N_params = shape.n_layers * block + norms
    return ParameterCount(N_params, N_params + embedding + head, block, embedding, head)


def _elements(shapes: dict[str, Shape]) -> int:
    """Elements of all tensors together."""
    return sum(prod(size) for size in shapes.values())
