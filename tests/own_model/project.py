"""A small model of the user's own in two files, and a config that names it."""

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
