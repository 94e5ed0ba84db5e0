"""A small recurrent language model: all that llmrun asks of a model of your own (docs/own-model.md)."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A gated linear recurrence over positions, behind a norm, added to the residual stream."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] -> [B, L, width]."""
        value, gate = self.inward(self.norm(x)).chunk(2, dim=-1)
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None]
        mean = value.cumsum(dim=1) / count
        return x + self.dropout(self.outward(mean * torch.sigmoid(gate)))


class Recurrent(nn.Module):
    """Token table, blocks, a head that shares the table."""

    def __init__(self, vocab_size: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L + 1] -> logits [B, L, vocab_size] for tokens[:, :-1]."""
        x = self.table(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def recurrent(vocab_size: int, width: int, layers: int = 2, dropout: float = 0.0) -> nn.Module:
    """The model.  vocab_size comes from the dataset's tokenizer; the others from `model.args`."""
    return Recurrent(vocab_size, width, layers, dropout)
