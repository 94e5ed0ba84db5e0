"""A small language model with room for one more module: what tests of `llmrun check` build their models from."""

from torch import nn


class Block(nn.Module):
    """Mixes positions by a running mean over the prefix, then applies `part`."""

    def __init__(self, width: int, part: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.part = part

    def forward(self, x):
        """[B, L, width] -> [B, L, width]."""
        lengths = x.new_ones(x.shape[1]).cumsum(0)[:, None]
        return x + self.part(self.mix(self.norm(x).cumsum(1) / lengths).tanh())


class Small(nn.Module):
    """Embedding, blocks, head; the block with index 1 has `part`, the others nothing in its place."""

    def __init__(self, vocab_size: int, part: nn.Module, width: int = 32, n_blocks: int = 3) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        parts = [part if index == 1 else nn.Identity() for index in range(n_blocks)]
        self.blocks = nn.ModuleList(Block(width, each) for each in parts)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens):
        """[B, L + 1] -> logits [B, L, vocab_size]."""
        x = self.table(tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        return self.head(x)
