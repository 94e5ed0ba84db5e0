"""Which part of a model a set of tensors points at."""

import pytest

from llmrun.verify.diagnosis import ModelPart, first_in_backward, forward_place, module_of, shared_module

BLOCK = "model.layers.1"
ATTENTION = [f"{BLOCK}.self_attn.{name}_proj.weight" for name in "qkvo"]
MLP = [f"{BLOCK}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
BEFORE = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", f"{BLOCK}.input_layernorm.weight"]


@pytest.mark.parametrize(
    ("tensors", "place"),
    [
        ([*BEFORE, *ATTENTION], ModelPart(f"{BLOCK}.self_attn", 3)),
        (
            [*ATTENTION, *BEFORE, *MLP, f"{BLOCK}.post_attention_layernorm.weight"],
            ModelPart(f"{BLOCK}.mlp", 8),
        ),
        ([*MLP, "model.norm.weight"], ModelPart("model.norm", 3)),
        ([*MLP, "model.norm.weight", "lm_head.weight"], ModelPart("lm_head", 4)),
        (
            ["model.layers.9.mlp.up_proj.weight", "model.layers.10.mlp.up_proj.weight"],
            ModelPart("model.layers.10.mlp", 1),
        ),
        ([ATTENTION[0]], ModelPart(ATTENTION[0])),
        ([f"{ATTENTION[0]}.exp_avg"], ModelPart(ATTENTION[0])),
        ([], None),
    ],
)
def test_the_first_module_that_backward_reaches(tensors, place):
    """The last one in the forward pass, however the tensors are ordered."""
    assert first_in_backward(tensors) == place


@pytest.mark.parametrize(
    ("tensors", "place"),
    [
        ([ATTENTION[0]], ModelPart(ATTENTION[0])),
        ([f"{ATTENTION[0]}.exp_avg", f"{ATTENTION[0]}.exp_avg_sq"], ModelPart(ATTENTION[0])),
        (ATTENTION, ModelPart(f"{BLOCK}.self_attn")),
        ([*ATTENTION, *MLP], None),
        ([], None),
    ],
)
def test_one_module_or_none(tensors, place):
    """Several modules are no place."""
    assert shared_module(tensors) == place


def test_names_of_other_models_are_taken_as_they_are():
    """A user's own model has its own names."""
    assert module_of("weight") == "weight"
    assert module_of("encoder.weight") == "encoder"
    assert module_of("blocks.3.attention.qkv.weight") == "blocks.3.attention"
    assert forward_place("blocks.3.attention") < forward_place("blocks.12.attention")
