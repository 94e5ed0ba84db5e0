"""The transformer: names, shapes, initial values, causality, every switch."""

import math
from itertools import product

import pytest
import torch

from llmrun.core.model.attention import alibi_slopes
from llmrun.core.model.build import build, initial_values
from llmrun.core.model.parameters import parameter_shapes
from llmrun.core.model.shape import ModelShape
from llmrun.core.model.spec import TransformerSpec

BASE = {
    "n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 2, "head_dim": 12, "d_ff": 43, "vocab_size": 61,
    "tie_embeddings": True, "mlp": "swiglu", "norm": "rmsnorm", "norm_eps": 1e-5, "position": "rope",
    "rope_theta": 10000.0, "bias": False, "qkv_bias": False, "qk_norm": False, "dropout": 0.0, "L_ctx": 16,
}  # fmt: skip
SWITCHES = [
    dict(zip(("mlp", "norm", "position", "bias", "tie_embeddings", "qk_norm"), values, strict=True))
    for values in product(
        ("swiglu", "gelu"),
        ("rmsnorm", "layernorm"),
        ("rope", "learned", "alibi", "none"),
        (False, True),
        (False, True),
        (False, True),
    )
]


def make(recompute: bool = False, seed: int = 7, **switches):
    """A model with memory of its own."""
    shape = ModelShape(**{**BASE, **switches})
    spec = TransformerSpec(shape)
    fill = initial_values(spec, seed)
    return shape, build(spec, lambda _, size: torch.zeros(size), fill, recompute_blocks=recompute)


def tokens(n: int = 3, L: int = 16) -> torch.Tensor:
    """Fixed random tokens [n, L + 1]."""
    return torch.randint(0, 61, (n, L + 1), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_every_combination_of_switches_trains(switches):
    """Names and shapes are those that `plan` counts; the first loss is ln(vocab); every parameter learns."""
    shape, model = make(**switches)
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == parameter_shapes(shape)

    loss, n = model(tokens())
    loss.backward()

    assert loss.dtype == torch.float32
    assert n == 48
    assert loss.item() / n == pytest.approx(math.log(61), abs=0.1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("position", ["rope", "learned", "alibi", "none"])
def test_no_position_sees_the_future(position):
    """Changing a token changes no logits before it."""
    _, model = make(position=position)
    one = tokens()[:, :-1]
    other = one.clone()
    other[:, 9] = (other[:, 9] + 1) % 61
    before, after = model.logits(one), model.logits(other)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_initial_values_depend_on_seed_and_name_alone():
    """A layer more or another order changes no other parameter; projections to the residual are smaller."""
    _, small = make(n_layers=2)
    _, large = make(n_layers=2, d_ff=99)
    _, other = make(seed=8)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(small.get_parameter(name), large.get_parameter(name))
    assert not torch.equal(small.get_parameter(name), other.get_parameter(name))
    assert small.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.1)
    assert small.get_parameter("model.layers.1.self_attn.o_proj.weight").std().item() == pytest.approx(
        0.01, rel=0.1
    )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recomputation_changes_no_bit(precision):
    """Activation checkpointing by block, with dropout, gives the same gradients."""
    gradients = []
    for recompute in (False, True):
        _, model = make(recompute=recompute, dropout=0.3)
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=precision, enabled=precision is torch.bfloat16):
            loss, _ = model(tokens())
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_rotary_attention_depends_on_distance():
    """With RoPE, a shift of all positions leaves attention scores unchanged (within rounding)."""
    from llmrun.core.model.attention import rotary_table, rotate

    cos, sin = rotary_table(32, 12, 10000.0)
    q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)
    scores = [
        (rotate(q, cos[i : i + 1], sin[i : i + 1]) * rotate(k, cos[j : j + 1], sin[j : j + 1])).sum()
        for i, j in ((5, 2), (20, 17))
    ]
    assert scores[0].item() == pytest.approx(scores[1].item(), abs=1e-4)


def test_alibi_slopes_are_the_papers():
    """8 heads: 1/2, 1/4, …; 12 heads add every other slope of 16."""
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12)[8:] == [2.0 ** (-0.5 * i) for i in (1, 3, 5, 7)]
