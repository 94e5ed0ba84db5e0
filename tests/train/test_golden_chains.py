"""Small runs give the bits that they gave when they were first recorded: the chain heads in golden_chains.json.

Bits depend on torch's build and on the CPU's kernels, so each set of chains stands under a key made of both.
A refactoring leaves the file untouched; a change of bits needs a sentence in CHANGELOG.md and new values.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from warm.bits import chain_of
from warm.pool import PoolBackend

GOLDEN = json.loads((Path(__file__).parent / "golden_chains.json").read_text())

CONFIGS = {
    "fp32": ["precision=fp32"],
    "bf16": ["precision=bf16"],
    "no-dropout": ["precision=fp32", "model.dropout=0"],
    "multi-head": ["precision=fp32", "model.n_kv_heads=4"],
    "untied": ["precision=fp32", "model.tie_embeddings=false"],
    "learned": ["precision=fp32", "model.position=learned"],
    "alibi": ["precision=fp32", "model.position=alibi"],
    "gpt2-like": ["precision=bf16", "model.norm=layernorm", "model.mlp=gelu", "model.bias=true"],
    "qk-norm": ["precision=bf16", "model.qk_norm=true", "model.qkv_bias=true"],
    "one-lane": ["precision=fp32", "batch.V=1"],
    "linear-foreach": ["precision=fp32", "schedule.name=linear", "optimizer.implementation=foreach"],
}


def machine_key() -> str:
    """Names the kernels that decide bits: torch's build, its vector instructions, and what they compute."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    found = [a @ b, a.bfloat16() @ b.bfloat16(), torch.softmax(a, -1), torch.nn.functional.silu(a)]
    content = b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in found)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} {capability} {hashlib.sha256(content).hexdigest()[:16]}"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_chain_is_the_recorded_one(name, driver, server) -> None:
    """16 steps of a small run end with the recorded chain."""
    golden = GOLDEN.get(machine_key())
    if golden is None:
        pytest.skip(f"no chains are recorded for this machine: {machine_key()}")
    driver.train(PoolBackend(server), "golden", *CONFIGS[name])

    assert chain_of(driver.run("golden")) == golden[name]
