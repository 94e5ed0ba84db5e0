"""Normalisation layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from llmrun.core.model.shape import ModelShape


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, always computed in float32, also on bfloat16 heads under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., normalized] -> the same shape, float32."""
        return F.rms_norm(x.float(), self.normalized_shape, self.weight, self.eps)


def norm_of(shape: ModelShape) -> nn.Module:
    """The normalisation of a block: over the last axis of [..., d_model].

    RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) or LayerNorm (Ba et al. 2016, arXiv 1607.06450).
    """
    if shape.norm == "layernorm":
        return nn.LayerNorm(shape.d_model, eps=shape.norm_eps, elementwise_affine=True, bias=shape.bias)
    return RMSNorm(shape.d_model, eps=shape.norm_eps, elementwise_affine=True)


def head_norm_of(shape: ModelShape) -> nn.Module:
    """RMSNorm on each head: over the last axis of [..., head_dim] (Henry et al. 2020, arXiv 2010.04245)."""
    return RMSNorm(shape.head_dim, eps=shape.norm_eps, elementwise_affine=True)
