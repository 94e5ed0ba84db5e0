"""Small collectives of integers, and of float32 values as their bits."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

_SIGN = 2**63
_RANGE = 2**64

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""`all_gather_single` is the newer name of `all_gather_into_tensor` (torch 2.13)."""


def all_gather(whole: Tensor, own: Tensor) -> None:
    """Fill `whole` [D·n] with `own` [n] of every rank, by rank."""
    _all_gather(whole, own)


def gather_integers(values: list[int], D: int, device: torch.device) -> list[list[int]]:
    """`values` of every rank, by rank.

    values: integers in [-2^63, 2^64), as many on each rank.  Returns integers in [-2^63, 2^63).
    """
    own = [v - _RANGE if v >= _SIGN else v for v in values]
    if D == 1:
        return [own]
    received = torch.empty(D * len(own), dtype=torch.int64, device=device)
    all_gather(received, torch.tensor(own, dtype=torch.int64, device=device))
    rows: list[list[int]] = received.view(D, -1).tolist()
    return rows


def sum_columns(rows: list[list[int]]) -> list[int]:
    """Column sums mod 2^64, each in [0, 2^64): the partial digests of all ranks added up."""
    return [sum(column) % _RANGE for column in zip(*rows, strict=True)]


def bits_of(value: float) -> int:
    """The float32 bits of a float32 value."""
    return int(np.float32(value).view(np.uint32))


def float_of(bits: int) -> float:
    """The float32 value of 32 bits."""
    return float(np.uint32(bits).view(np.float32))
