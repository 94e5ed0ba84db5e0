"""Ten models that keep the promise, each with something that looks as if it might not."""

import random

import torch
import torch.nn.functional as F
from small import Block, Small
from torch import nn


def tiny(vocab_size: int) -> nn.Module:
    """One linear layer over an embedding."""
    return Small(vocab_size, nn.Identity(), width=4, n_blocks=2)


def deep(vocab_size: int) -> nn.Module:
    """Many blocks."""
    return Small(vocab_size, nn.Identity(), width=16, n_blocks=12)


def dropped(vocab_size: int) -> nn.Module:
    """Dropout of torch, with a rate from Python's generator, which is set before the model is made."""
    return Small(vocab_size, nn.Dropout(0.2 + 0.2 * random.random()))


class Tied(Small):
    """One table for both ends."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, nn.Identity())
        self.head.weight = self.table.weight


def tied(vocab_size: int) -> nn.Module:
    """Tied weights."""
    return Tied(vocab_size)


def frozen(vocab_size: int) -> nn.Module:
    """A table that does not train."""
    model = Small(vocab_size, nn.Identity())
    model.table.weight.requires_grad_(requires_grad=False)
    return model


class Rotary(nn.Module):
    """Rotates pairs by angles from a table in a buffer."""

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        angles = torch.arange(longest)[:, None] / 100 ** (torch.arange(width // 2) / width)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin())

    def forward(self, x):
        """[B, L, width] -> [B, L, width]."""
        a, b = x.chunk(2, dim=-1)
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotary(vocab_size: int, L_ctx: int) -> nn.Module:
    """Buffers, persistent and not, that stay as they are."""
    return Small(vocab_size, Rotary(32, L_ctx))


class Experts(nn.Module):
    """The two best of four experts for each token, by index operations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        """[B, L, width] -> [B, L, width]."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        result = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, places = (chosen == index).nonzero(as_tuple=True)
            weighted = expert(flat[rows]) * weights[rows, places, None]
            result = result.index_add(0, rows, weighted.to(result.dtype))
        return result.view_as(x)


def experts(vocab_size: int) -> nn.Module:
    """A mixture of experts."""
    return Small(vocab_size, Experts(32))


class Attention(nn.Module):
    """Attention with a mask that is a plain tensor, made once."""

    def __init__(self, width: int, longest: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.mask = torch.ones(longest, longest, dtype=torch.bool).tril()

    def forward(self, x):
        """[B, L, width] -> [B, L, width]."""
        q, k, v = self.project(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[: x.shape[1], : x.shape[1]])


def attention(vocab_size: int, L_ctx: int) -> nn.Module:
    """Bias-free attention."""
    return Small(vocab_size, Attention(32, L_ctx))


class OwnLoss(Small):
    """Returns the sum of its losses, without those of every fourth token."""

    def forward(self, tokens):
        """[B, L + 1] -> (sum of the losses, number of targets)."""
        logits, targets = super().forward(tokens).float(), tokens[:, 1:]
        kept = targets % 4 != 0
        return F.cross_entropy(logits[kept], targets[kept], reduction="sum"), int(kept.sum())


def own_loss(vocab_size: int) -> nn.Module:
    """Another number of targets in each micro-batch."""
    return OwnLoss(vocab_size, nn.Identity())


class Shared(Small):
    """One block is applied twice."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, nn.Identity())
        self.again = Block(32, nn.Identity())

    def forward(self, tokens):
        """[B, L + 1] -> logits."""
        x = self.again(self.again(self.table(tokens[:, :-1])))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def shared(vocab_size: int) -> nn.Module:
    """A module that runs twice in a pass."""
    return Shared(vocab_size)
