"""A model of the user's own trains under the promise: the same bits for every D, across kills and resumes."""

from pathlib import Path

import pytest

from warm.bits import assert_equal_runs
from warm.pool import dying

MODEL = """
import torch
from torch import nn
from parts import Block

class Small(nn.Module):
    def __init__(self, vocab_size, width, layers, dropout=0.0):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        return self.head(x)

def small(vocab_size: int, width: int, layers: int = 2, dropout: float = 0.0) -> nn.Module:
    return Small(vocab_size, width, layers, dropout)
"""
PARTS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("scale", torch.full((width,), 0.5), persistent=False)

    def forward(self, x):
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return x + self.dropout(torch.tanh(self.linear(self.norm(mean)))) * self.scale
"""
CONFIG = """
name: own
T_tokens: 8Ki
model:
  factory: model:small
  args: {width: 48, dropout: 0.1}
batch: {GB_tok: 512, μ_tok: 64, L_ctx: 32, V: 8, D: 1}
optimizer: {lr: 3e-3}
data: {path: DATA, num_workers: 0}
eval: {every_steps: 4, windows: 8}
checkpoint: {every_steps: 5, keep_best: false}
reproducibility: {compare_with: none}
hardware: {device: cpu}
"""


@pytest.fixture
def own(driver, dataset):
    """A driver whose config names the model above, in a directory that is not the working directory."""
    place = driver.directory / "project"
    place.mkdir()
    (place / "model.py").write_text(MODEL)
    (place / "parts.py").write_text(PARTS)
    driver.config = place / "config.yaml"
    driver.config.write_text(CONFIG.replace("DATA", str(dataset)))
    return driver


def test_the_same_bits_for_every_D_and_across_a_kill(own, pool, server):
    """D = 1 and D = 2 give equal bits, and a run that is killed and resumed on another D too."""
    assert own.train(pool, "one").end.why == "finished"
    assert own.train(pool, "two", "batch.D=2").end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("two"), 16)

    own.train(dying(server, 7), "killed", "batch.D=2")
    assert own.resume(pool, "killed", D=1).end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("killed"), 16)


def test_a_changed_module_is_refused(own, pool):
    """`resume` refuses a module that was changed, with its name."""
    own.train(pool, "one", until=3)
    parts = Path(own.directory / "project" / "parts.py")
    parts.write_text(PARTS.replace("torch.tanh", "torch.sin"))
    with pytest.raises(Exception, match=r"parts\.py"):
        own.resume(pool, "one")


def test_shard_and_recomputed_blocks_give_the_same_bits(own, pool, server):
    """`shard` at D = 2, with recomputed blocks, equals `replicate` at D = 1; killed and resumed too."""
    own.train(pool, "one")
    own.train(pool, "sharded", "batch.D=2", "strategy=shard")
    assert_equal_runs(own.run("one"), own.run("sharded"), 16)
    recomputing = ("strategy=shard", "activation_checkpointing=block")
    own.train(dying(server, 7), "killed", "batch.D=2", *recomputing)
    assert own.resume(pool, "killed", D=2).end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("killed"), 16)
    own.train(pool, "recomputed", "activation_checkpointing=block")
    assert_equal_runs(own.run("one"), own.run("recomputed"), 16)
