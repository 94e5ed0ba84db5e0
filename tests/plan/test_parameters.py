"""Parameter counts against published models, and the names against the counts."""

from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.model.parameters import block_shapes, count_parameters, parameter_shapes
from llmrun.core.model.shape import ModelShape


def make_shape(**given: Any) -> ModelShape:
    """A Llama-like shape with some of its fields changed."""
    fields: dict[str, Any] = {
        "n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "d_ff": 160,
        "vocab_size": 300, "tie_embeddings": False, "mlp": "swiglu", "norm": "rmsnorm", "norm_eps": 1e-5,
        "position": "rope", "rope_theta": 10000.0, "bias": False, "qkv_bias": False, "qk_norm": False,
        "dropout": 0.0, "L_ctx": 32,
    }  # fmt: skip
    return ModelShape(**fields | given)


GPT2: dict[str, Any] = {
    "mlp": "gelu", "norm": "layernorm", "position": "learned", "bias": True, "tie_embeddings": True,
    "vocab_size": 50257, "L_ctx": 1024, "head_dim": 64,
}  # fmt: skip
PYTHIA: dict[str, Any] = {"mlp": "gelu", "norm": "layernorm", "bias": True, "vocab_size": 50304}


def gpt2(n_layers: int, d_model: int, **given: Any) -> ModelShape:
    """A member of the GPT-2 family."""
    heads = d_model // 64
    sizes = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": heads,
        "n_kv_heads": heads,
        "d_ff": 4 * d_model,
    }
    return make_shape(**GPT2 | sizes | given)


def pythia(n_layers: int, d_model: int, n_heads: int) -> ModelShape:
    """A member of the Pythia family: its rotary positions and parallel blocks have no parameters."""
    sizes = {"n_layers": n_layers, "d_model": d_model, "n_heads": n_heads, "n_kv_heads": n_heads}
    return make_shape(**PYTHIA | sizes, head_dim=d_model // n_heads, d_ff=4 * d_model)


def llama(sizes: tuple[int, int, int, int, int, int], **given: Any) -> ModelShape:
    """n_layers, d_model, n_heads, n_kv_heads, d_ff, vocab_size of a Llama-like model."""
    names = ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff", "vocab_size")
    fields = dict(zip(names, sizes, strict=True))
    return make_shape(**{"head_dim": sizes[1] // sizes[2]} | fields | given)


PUBLISHED = {
    # Radford et al. 2019; exact counts of the released `gpt2` checkpoints on Hugging Face.
    "gpt2": (gpt2(12, 768), 124_439_808),
    "gpt2-medium": (gpt2(24, 1024), 354_823_168),
    "gpt2-large": (gpt2(36, 1280), 774_030_080),
    "gpt2-xl": (gpt2(48, 1600), 1_557_611_200),
    # nanoGPT's transformer_sizing.ipynb: GPT-2 without biases.
    "nanogpt": (gpt2(12, 768, bias=False), 124_337_664),
    # Touvron et al. 2023 (arXiv 2307.09288); safetensors totals of meta-llama/Llama-2-7b-hf and -13b-hf.
    "llama-2-7b": (llama((32, 4096, 32, 32, 11008, 32000)), 6_738_415_616),
    "llama-2-13b": (llama((40, 5120, 40, 40, 13824, 32000)), 13_015_864_320),
    # Dubey et al. 2024 (arXiv 2407.21783), table 3; safetensors totals of Meta-Llama-3-8B and -70B.
    "llama-3-8b": (llama((32, 4096, 32, 8, 14336, 128256)), 8_030_261_248),
    "llama-3-70b": (llama((80, 8192, 64, 8, 28672, 128256)), 70_553_706_496),
    # Zhang et al. 2024 (arXiv 2401.02385); safetensors total of TinyLlama-1.1B.
    "tinyllama-1.1b": (llama((22, 2048, 32, 4, 5632, 32000)), 1_100_048_384),
    # Qwen2.5 report (arXiv 2412.15115): biases on q, k, v; safetensors total of Qwen2.5-0.5B.
    "qwen2.5-0.5b": (
        llama((24, 896, 14, 2, 4864, 151936), qkv_bias=True, tie_embeddings=True), 494_032_768,
    ),
    # Qwen3 report (arXiv 2505.09388): normalised queries and keys, head_dim 128; Qwen3-0.6B, tied.
    "qwen3-0.6b": (
        llama((28, 1024, 16, 8, 3072, 151936), head_dim=128, qk_norm=True, tie_embeddings=True), 596_049_920,
    ),
    # Biderman et al. 2023 (arXiv 2304.01373); EleutherAI/pythia README.
    "pythia-70m": (pythia(6, 512, 8), 70_426_624),
    "pythia-160m": (pythia(12, 768, 12), 162_322_944),
    "pythia-1b": (pythia(16, 2048, 8), 1_011_781_632),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_of_published_models(name: str) -> None:
    """Every published total is met exactly."""
    shape, published = PUBLISHED[name]

    assert count_parameters(shape).N_params_total == published


@pytest.mark.parametrize(
    ("name", "published"),
    [("pythia-70m", 18_915_328), ("pythia-160m", 85_056_000), ("pythia-1b", 805_736_448)],
)
def test_N_params_is_pythias_non_embedding_count(name: str, published: int) -> None:
    """N_params counts blocks and final norm, as Pythia's table 1 does."""
    assert count_parameters(PUBLISHED[name][0]).N_params == published


shapes = st.builds(
    make_shape,
    n_layers=st.integers(1, 5),
    d_model=st.integers(1, 97),
    n_heads=st.integers(1, 6),
    n_kv_heads=st.integers(1, 6),
    head_dim=st.integers(1, 33),
    d_ff=st.integers(1, 129),
    vocab_size=st.integers(1, 999),
    tie_embeddings=st.booleans(),
    mlp=st.sampled_from(["swiglu", "gelu"]),
    norm=st.sampled_from(["rmsnorm", "layernorm"]),
    position=st.sampled_from(["rope", "learned", "alibi", "none"]),
    bias=st.booleans(),
    qkv_bias=st.booleans(),
    qk_norm=st.booleans(),
    L_ctx=st.integers(1, 64),
)


@given(shapes)
def test_counts_are_the_sum_of_the_named_shapes(shape: ModelShape) -> None:
    """For any shape, the counted total is that of the named tensors, and N_params leaves tables and head out."""
    sizes = {name: prod(size) for name, size in parameter_shapes(shape).items()}
    outside = {"model.embed_tokens.weight", "model.embed_positions.weight", "lm_head.weight"}
    count = count_parameters(shape)

    assert count.N_params_total == sum(sizes.values())
    assert count.N_params == sum(size for name, size in sizes.items() if name not in outside)
    assert count.N_params_total == count.N_params + count.embedding + count.head


def test_names_and_order_of_a_llama() -> None:
    """Names, shapes and order are those of Hugging Face's Llama."""
    shape = make_shape(n_layers=1)

    assert list(parameter_shapes(shape).items()) == [
        ("model.embed_tokens.weight", (300, 64)),
        ("model.layers.0.input_layernorm.weight", (64,)),
        ("model.layers.0.self_attn.q_proj.weight", (64, 64)),
        ("model.layers.0.self_attn.k_proj.weight", (32, 64)),
        ("model.layers.0.self_attn.v_proj.weight", (32, 64)),
        ("model.layers.0.self_attn.o_proj.weight", (64, 64)),
        ("model.layers.0.post_attention_layernorm.weight", (64,)),
        ("model.layers.0.mlp.gate_proj.weight", (160, 64)),
        ("model.layers.0.mlp.up_proj.weight", (160, 64)),
        ("model.layers.0.mlp.down_proj.weight", (64, 160)),
        ("model.norm.weight", (64,)),
        ("lm_head.weight", (300, 64)),
    ]


def test_names_with_every_switch_on() -> None:
    """Biases follow their weight; norms of heads come after the projections; only LayerNorm has a bias."""
    shape = make_shape(
        bias=True, qk_norm=True, norm="layernorm", mlp="gelu", position="learned", tie_embeddings=True
    )

    assert list(block_shapes(shape)) == [
        "input_layernorm.weight", "input_layernorm.bias",
        "self_attn.q_proj.weight", "self_attn.q_proj.bias",
        "self_attn.k_proj.weight", "self_attn.k_proj.bias",
        "self_attn.v_proj.weight", "self_attn.v_proj.bias",
        "self_attn.o_proj.weight", "self_attn.o_proj.bias",
        "self_attn.q_norm.weight", "self_attn.k_norm.weight",
        "post_attention_layernorm.weight", "post_attention_layernorm.bias",
        "mlp.up_proj.weight", "mlp.up_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias",
    ]  # fmt: skip
    assert list(parameter_shapes(shape))[:2] == ["model.embed_tokens.weight", "model.embed_positions.weight"]
    assert list(parameter_shapes(shape))[-2:] == ["model.norm.weight", "model.norm.bias"]


def test_an_rmsnorm_never_has_a_bias() -> None:
    """`bias: true` with RMSNorm gives biases to projections only."""
    names = block_shapes(make_shape(bias=True))

    assert "mlp.gate_proj.bias" in names
    assert "input_layernorm.bias" not in names


def test_qkv_bias_leaves_the_output_projection_without_one() -> None:
    """`qkv_bias` is Qwen2's: q, k and v have biases, o has none."""
    names = block_shapes(make_shape(qkv_bias=True))

    assert {name for name in names if name.endswith(".bias")} == {
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
    }


def test_counting_does_not_grow_with_the_layers() -> None:
    """A model of 10^15 layers is counted at once: `plan` never hangs on a typing error."""
    few = count_parameters(make_shape(n_layers=1))
    many = count_parameters(make_shape(n_layers=10**15))

    assert many.N_params - few.N_params == (10**15 - 1) * few.block
