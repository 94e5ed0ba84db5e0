"""FLOPs of what torch executes, by its own counter, with the attention kernel of the CPU that it has no formula for."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


def flop_counter() -> FlopCounterMode:
    """A context manager that counts matrix products, convolutions and attention; see `get_total_flops`."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # noqa: SLF001
    mapping = {attention: _attention, backward: _attention_backward}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """The full square of two products.  query: [B, heads, L, d]; key, value: [B, heads or fewer, L, d]."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (width + value[-1])


def _attention_backward(_gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Five products, as torch counts flash attention: the scores once more, and four for the gradients."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (3 * width + 2 * value[-1])
