"""Memory of a rank: formulas against what the built-in model really keeps, and what must grow with what."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.schema import ModelConfig
from llmrun.core.lanes import cost_of
from llmrun.core.model.parameters import count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.plan.memory import Memory, Setting, memory_of


def make_shape(L_ctx: int = 32, **changed: Any) -> ModelShape:
    """A small Llama-like shape."""
    small = {"n_layers": 3, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 176, "vocab_size": 300}
    form = small | changed
    return shape_of(complete_model(ModelConfig(**form), form["vocab_size"]), L_ctx)


def plan_memory(shape: ModelShape, **changed: Any) -> Memory:
    """Memory at D = 1, V = 1, bf16 on CUDA, with some of it changed."""
    D, V = changed.pop("D", 1), changed.pop("V", 1)
    defaults: dict[str, Any] = {"mu_tok": 128, "precision": "bf16", "recomputes": False, "device": "cuda"}
    return memory_of(shape, Setting(D=D, V=V, lanes=cost_of(V, D), **defaults | changed))


def part(memory: Memory, name: str) -> int:
    """Bytes of one part, 0 where it is absent."""
    return {found.name: found.bytes for found in memory.parts}.get(name, 0)


def kept_by_torch(shape: ModelShape, precision: str, sequences: int) -> int:
    """Bytes of all tensors that autograd keeps between forward and backward on this CPU."""
    import torch

    from llmrun.core.model.transformer import Transformer

    model = Transformer(shape)
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.randint(0, shape.vocab_size, (sequences, shape.L_ctx + 1))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model(tokens)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"n_kv_heads": 4},
        {"mlp": "gelu", "norm": "layernorm", "bias": True, "position": "learned"},
        {"dropout": 0.1},
        {"qk_norm": True},
        {"position": "alibi"},
        {"tie_embeddings": False, "head_dim": 32, "n_layers": 5},
    ],
)
def test_activations_are_what_autograd_keeps(changed: dict[str, Any], precision: str) -> None:
    """The formula gives what the built-in model keeps for its backward pass on a CPU, within 0.1 %."""
    shape = make_shape(**changed)
    memory = plan_memory(shape, mu_tok=4 * shape.L_ctx, precision=precision, device="cpu")
    log_probabilities = part(memory, "logits") // 3
    planned = (
        part(memory, "activations")
        + part(memory, "outside blocks")
        + part(memory, "bf16 weights")
        + log_probabilities
    )

    assert planned == pytest.approx(kept_by_torch(shape, precision, 4), rel=1e-3)


def test_state_by_hand() -> None:
    """Weights 4, gradients 4 per lane buffer, moments 8/D, exchange 4 + 4/D, checkpoint buffer 12/D bytes a parameter."""
    shape = make_shape(d_model=128, d_ff=256)
    N = count_parameters(shape).N_params_total
    assert N % 4 == 0
    memory = plan_memory(shape, D=4, V=16, precision="fp32")

    assert part(memory, "weights") == 4 * N
    assert part(memory, "gradients") == 4 * N * 3
    assert part(memory, "exchange") == 4 * N + 4 * N // 4
    assert part(memory, "optimizer") == 8 * N // 4
    assert part(memory, "bf16 weights") == 0
    assert part(memory, "logits") == 12 * 128 * 300
    assert memory.checkpoint_buffer.bytes == 12 * N // 4
    assert memory.device_bytes == sum(found.bytes for found in memory.parts)


def test_recomputation_keeps_inputs_of_blocks_and_one_block() -> None:
    """Checkpointed blocks cost 4·d_model a token each, and the last one is there in full, its input once."""
    shape = make_shape(n_layers=8, vocab_size=8)
    full = part(plan_memory(shape, mu_tok=8192), "activations") // shape.n_layers
    recomputed = plan_memory(shape, mu_tok=8192, recomputes=True)

    assert recomputed.moment == "backward of the last block"
    assert part(recomputed, "activations") == 8 * 4 * 64 * 8192 + full - 4 * 64 * 8192


def test_a_recomputed_block_is_gone_when_the_logits_are_there() -> None:
    """With a large vocabulary recomputation keeps inputs of blocks only: the peak is at the loss."""
    shape = make_shape(vocab_size=20_000)
    recomputed = plan_memory(shape, mu_tok=8192, recomputes=True)

    assert recomputed.moment == "the loss's gradient"
    assert part(recomputed, "activations") == 3 * 4 * 64 * 8192


def test_a_cpu_holds_what_waits_to_be_written() -> None:
    """On a CPU the checkpoint's buffer is a part of the rank's memory, on a GPU it lies elsewhere."""
    shape = make_shape()

    assert (
        part(plan_memory(shape, device="cpu"), "checkpoint buffer")
        == 12 * count_parameters(shape).N_params_total
    )
    assert part(plan_memory(shape, device="cuda"), "checkpoint buffer") == 0


settings_of_memory = {
    "D": st.sampled_from([1, 2, 4, 8]),
    "mu_tok": st.sampled_from([2048, 4096, 16384]),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "recomputes": st.booleans(),
    "device": st.sampled_from(["cpu", "cuda"]),
    "position": st.sampled_from(["rope", "alibi"]),
    "dropout": st.sampled_from([0.0, 0.1]),
}


@settings(max_examples=60)
@given(st.fixed_dictionaries(settings_of_memory))
def test_memory_grows_with_what_it_must_grow_with(drawn: dict[str, Any]) -> None:
    """More tokens or layers never need less memory, and more ranks never more."""
    drawn = dict(drawn)
    form = {"position": drawn.pop("position"), "dropout": drawn.pop("dropout")}
    D, mu_tok = drawn.pop("D"), drawn.pop("mu_tok")
    shape, deeper = make_shape(**form), make_shape(n_layers=4, **form)

    def needs(model: ModelShape, D: int, mu_tok: int) -> int:
        return plan_memory(model, D=D, V=16, mu_tok=mu_tok, **drawn).device_bytes

    here = needs(shape, D, mu_tok)
    assert here > 0
    assert needs(shape, D, 2 * mu_tok) > here
    assert needs(deeper, D, mu_tok) > here
    if D > 1:
        assert needs(shape, 2 * D, mu_tok) < here


def test_sharding_divides_the_state() -> None:
    """With `shard` a large model's weights, gradients and moments go down with D; D = 1 has nothing to shard."""
    shape = make_shape(n_layers=40)

    def state(D: int, strategy: str) -> int:
        found = plan_memory(shape, D=D, V=64, strategy=strategy)
        return sum(part(found, name) for name in ("weights", "gradients", "optimizer"))

    assert state(1, "shard") == state(1, "replicate")
    assert state(64, "shard") < state(64, "replicate") / 2
