"""A decoder-only transformer with the parameter names of Hugging Face's Llama.

Pre-norm residual blocks; the config may choose, unlike Llama, a gelu MLP, LayerNorm, learned or ALiBi positions, biases,
normalised queries and keys, dropout.  B sequences, L positions, C d_model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrun.core.model.attention import Attention, Positions
from llmrun.core.model.norms import norm_of
from llmrun.core.model.shape import ModelShape


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), or two layers with GELU between them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.is_gated = shape.mlp == "swiglu"
        if self.is_gated:
            self.gate_proj = nn.Linear(shape.d_model, shape.d_ff, bias=shape.bias)
        self.up_proj = nn.Linear(shape.d_model, shape.d_ff, bias=shape.bias)
        self.down_proj = nn.Linear(shape.d_ff, shape.d_model, bias=shape.bias)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        inner = (
            F.silu(self.gate_proj(x_BLC)) * self.up_proj(x_BLC)
            if self.is_gated
            else F.gelu(self.up_proj(x_BLC))
        )
        y: Tensor = self.down_proj(inner)
        return y


class Block(nn.Module):
    """Attention and MLP, each behind a norm, each added to the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = norm_of(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = norm_of(shape)
        self.mlp = Mlp(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x_BLC: Tensor, positions: Positions) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        x_BLC = x_BLC + self.dropout(self.self_attn(self.input_layernorm(x_BLC), positions))
        y: Tensor = x_BLC + self.dropout(self.mlp(self.post_attention_layernorm(x_BLC)))
        return y


class Decoder(nn.Module):
    """Token table, blocks, final norm."""

    def __init__(self, shape: ModelShape, *, recompute_blocks: bool) -> None:
        super().__init__()
        self.recompute_blocks = recompute_blocks
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        if shape.position == "learned":
            self.embed_positions: nn.Embedding | None = nn.Embedding(shape.L_ctx, shape.d_model)
        else:
            self.embed_positions = None
        self.dropout = nn.Dropout(shape.dropout)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm = norm_of(shape)
        self.positions = Positions(shape)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """[B, L], int64 -> hidden states [B, L, C]."""
        x_BLC = self.embed_tokens(tokens_BL)
        if self.embed_positions is not None:
            x_BLC = x_BLC + self.embed_positions.weight[: tokens_BL.shape[1]]
        x_BLC = self.dropout(x_BLC)
        for block in self.layers:
            if self.recompute_blocks and torch.is_grad_enabled():
                x_BLC = checkpoint(block, x_BLC, self.positions, use_reentrant=False, preserve_rng_state=True)
            else:
                x_BLC = block(x_BLC, self.positions)
        y: Tensor = self.norm(x_BLC)
        return y


class Transformer(nn.Module):
    """The whole model: a `LanguageModel` and a `NextTokenModel` (llmrun.core.model.spec)."""

    def __init__(self, shape: ModelShape, *, recompute_blocks: bool = False) -> None:
        super().__init__()
        self.model = Decoder(shape, recompute_blocks=recompute_blocks)
        self.lm_head = (
            None if shape.tie_embeddings else nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        )

    def logits(self, tokens_BL: Tensor) -> Tensor:
        """[B, L], int64 -> next-token logits [B, L, vocab_size]."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return F.linear(self.model(tokens_BL), head.weight)

    def forward(self, tokens: Tensor) -> tuple[Tensor, int]:
        """Sum of the cross-entropy of each next token.

        tokens: [B, L + 1], int64.  Returns (scalar, float32, nats; B·L).
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        logits = self.logits(inputs).float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return loss, targets.numel()
