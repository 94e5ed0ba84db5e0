"""Causal self-attention with grouped key and value heads, and its positions (RoPE, ALiBi).

B sequences, H heads, G key and value heads, L positions, E head_dim, C d_model.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmrun.core.model.norms import head_norm_of
from llmrun.core.model.shape import ModelShape


def rotary_table(L_ctx: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE (Su et al. 2021, arXiv 2104.09864, §3.2.2), halves rotated as in Llama.

    Returns two tensors [L_ctx, head_dim], float32.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.outer(torch.arange(L_ctx, dtype=torch.float64), theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(torch.float32), angles.sin().to(torch.float32)


def rotate(x_BHLE: Tensor, cos_LE: Tensor, sin_LE: Tensor) -> Tensor:
    """Rotate each pair (e, e + E/2) by its angle, in float32; the dtype of `x` is kept."""
    x = x_BHLE.float()
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x * cos_LE + rotated * sin_LE).type_as(x_BHLE)


def alibi_slopes(n_heads: int) -> list[float]:
    """Slopes of ALiBi (Press et al. 2021, arXiv 2108.12409, §3): 2^(-8/n), 2^(-16/n), …

    For a count of heads that is not a power of two, those of the next lower power, then every other one
    of the next higher, as in the paper's code.
    """
    below = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    between = [2.0 ** (-4.0 * (i + 1) / below) for i in range(0, 2 * (n_heads - below), 2)]
    return slopes + between


def alibi_bias(n_heads: int, L_ctx: int) -> Tensor:
    """The causal attention bias of ALiBi: -slope·distance, -inf above the diagonal.

    Returns [n_heads, L_ctx, L_ctx], float32.
    """
    position = torch.arange(L_ctx, dtype=torch.float32)
    distance = (position[:, None] - position[None, :]).clamp(min=0)
    slopes = torch.tensor(alibi_slopes(n_heads), dtype=torch.float32)
    future = torch.full((L_ctx, L_ctx), -torch.inf).triu(1)
    return future - slopes[:, None, None] * distance


class Positions(nn.Module):
    """Position tables shared by all blocks: derived, so never saved."""

    cos: Tensor
    sin: Tensor
    bias: Tensor | None

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        with torch.device("cpu"):
            self._register_tables(shape)

    def _register_tables(self, shape: ModelShape) -> None:
        """Fill the tables, also while a model is built on the meta device."""
        self.is_rotary = shape.position == "rope"
        if self.is_rotary:
            cos, sin = rotary_table(shape.L_ctx, shape.head_dim, shape.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        bias = alibi_bias(shape.n_heads, shape.L_ctx) if shape.position == "alibi" else None
        self.register_buffer("bias", bias, persistent=False)

    def rotate(self, x_BHLE: Tensor) -> Tensor:
        """Rotate queries or keys if positions are rotary, else return them unchanged: [B, H, L, E]."""
        if not self.is_rotary:
            return x_BHLE
        L = x_BHLE.shape[2]
        return rotate(x_BHLE, self.cos[:L], self.sin[:L])


class Attention(nn.Module):
    """Multi-head attention; grouped queries after Ainslie et al. 2023, arXiv 2305.13245."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        qkv_bias = shape.bias or shape.qkv_bias
        self.n_heads, self.n_kv_heads, self.head_dim = shape.n_heads, shape.n_kv_heads, shape.head_dim
        self.q_proj = nn.Linear(shape.d_model, shape.d_q, bias=qkv_bias)
        self.k_proj = nn.Linear(shape.d_model, shape.d_kv, bias=qkv_bias)
        self.v_proj = nn.Linear(shape.d_model, shape.d_kv, bias=qkv_bias)
        self.o_proj = nn.Linear(shape.d_q, shape.d_model, bias=shape.bias)
        if shape.qk_norm:
            self.q_norm: nn.Module = head_norm_of(shape)
            self.k_norm: nn.Module = head_norm_of(shape)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x_BLC: Tensor, positions: Positions) -> Tensor:
        """[B, L, C] -> [B, L, C]; each position sees itself and those before it."""
        q_BHLE = positions.rotate(self.q_norm(self._heads(self.q_proj(x_BLC), self.n_heads)))
        k_BGLE = positions.rotate(self.k_norm(self._heads(self.k_proj(x_BLC), self.n_kv_heads)))
        v_BGLE = self._heads(self.v_proj(x_BLC), self.n_kv_heads)
        k_BHLE, v_BHLE = self._share(k_BGLE), self._share(v_BGLE)
        q_BHLE, k_BHLE = q_BHLE.type_as(v_BHLE), k_BHLE.type_as(v_BHLE)
        bias = None if positions.bias is None else positions.bias[:, : x_BLC.shape[1], : x_BLC.shape[1]]
        y_BHLE = F.scaled_dot_product_attention(
            q_BHLE,
            k_BHLE,
            v_BHLE,
            attn_mask=None if bias is None else bias.type_as(q_BHLE),
            dropout_p=0.0,
            is_causal=bias is None,
        )
        y: Tensor = self.o_proj(y_BHLE.transpose(1, 2).flatten(2))
        return y

    def _heads(self, x_BLD: Tensor, n_heads: int) -> Tensor:
        """[B, L, n_heads·E] -> [B, n_heads, L, E]."""
        return x_BLD.view(*x_BLD.shape[:2], n_heads, self.head_dim).transpose(1, 2)

    def _share(self, x_BGLE: Tensor) -> Tensor:
        """[B, G, L, E] -> [B, H, L, E]: each key and value head serves H/G query heads."""
        return x_BGLE.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
