"""The order of samples: a specified permutation of the windows for every epoch, computed entry by entry.

A 6-round Feistel network on the smallest even number of bits that holds W-1, with cycle-walking: an
index that leaves [0, W) goes through the network again until it is back.  Round k does
`l, r = r, l ^ (splitmix64(r ^ key_k) & mask)`, where `key_k` is the first 8 bytes (little-endian) of
sha256(stream key ‖ byte k).  So any entry is computed on its own, in constant memory, by any process.

Position p of the order is entry p mod W of epoch p // W: a batch may straddle two epochs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmrun.core.splitmix import splitmix64, splitmix64_array
from llmrun.core.streams import seed_of, stream_key

ROUNDS = 6

BLOCK_ENTRIES = 64 * 1024
"""Entries computed at a time, so that temporary arrays stay in the cache."""

LARGEST_W = 2**48
"""An entry of the order file keeps 48 bits for the window."""


def half_bits(W: int) -> int:
    """Bits of each half of the network: half the smallest even number of bits that holds W-1."""
    return ((W - 1).bit_length() + 1) // 2


def round_keys(key: bytes) -> tuple[int, ...]:
    """The keys of the six rounds from a stream key of 32 bytes."""
    return tuple(seed_of(hashlib.sha256(key + bytes([k])).digest()) for k in range(ROUNDS))


@lru_cache(maxsize=8)
def epoch_keys(seed: int, epoch: int) -> tuple[int, ...]:
    """The round keys of one epoch."""
    return round_keys(stream_key(seed, "order", epoch))


def feistel_one(keys: Sequence[int], W: int, index: int) -> int:
    """The entry at one index in [0, W)."""
    half = half_bits(W)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ (splitmix64(right ^ key) & mask)
        index = left << half | right
        if index < W:
            return index


def feistel(keys: Sequence[int], W: int, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The entries at `index`: uint64 [n], each in [0, W) -> uint64 [n], each in [0, W).

    Over all indices a permutation.
    """
    entries = _network(keys, half_bits(W), index)
    outside = np.flatnonzero(entries >= W)
    while outside.size:
        walked = _network(keys, half_bits(W), entries[outside])
        entries[outside] = walked
        outside = outside[walked >= W]
    return entries


def _network(keys: Sequence[int], half: int, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One pass through the six rounds: a permutation of [0, 2^(2·half))."""
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = index >> shift, index & mask
    for key in keys:
        mixed = splitmix64_array(right ^ np.uint64(key))
        mixed &= mask
        mixed ^= left
        left, right = right, mixed
    return left << shift | right


def _permuted(keys: Sequence[int], W: int, start: int, count: int) -> NDArray[np.uint64]:
    """Entries [start, start + count) of one permutation, block by block."""
    entries = np.empty(count, dtype=np.uint64)
    for offset in range(0, count, BLOCK_ENTRIES):
        stop = min(offset + BLOCK_ENTRIES, count)
        index = np.arange(start + offset, start + stop, dtype=np.uint64)
        entries[offset:stop] = feistel(keys, W, index)
    return entries


class Entries(Protocol):
    """The order as a loader reads it: from the order file, or computed."""

    def entries(self, start: int, count: int) -> NDArray[np.uint64]:
        """Positions [start, start + count) of the order: uint64 [count]."""
        ...


@dataclass(frozen=True)
class Order:
    """The order of `n_windows` windows under `seed`, for all epochs."""

    seed: int
    n_windows: int

    def __post_init__(self) -> None:
        assert 1 <= self.n_windows <= LARGEST_W, self.n_windows

    def entry(self, p: int) -> int:
        """The window at position `p` >= 0."""
        epoch, index = divmod(p, self.n_windows)
        return feistel_one(epoch_keys(self.seed, epoch), self.n_windows, index)

    def entries(self, start: int, count: int) -> NDArray[np.uint64]:
        """The windows at positions [start, start + count): uint64 [count]."""
        entries = np.empty(count, dtype=np.uint64)
        done = 0
        while done < count:
            epoch, index = divmod(start + done, self.n_windows)
            here = min(count - done, self.n_windows - index)
            keys = epoch_keys(self.seed, epoch)
            entries[done : done + here] = _permuted(keys, self.n_windows, index, here)
            done += here
        return entries


def fixed_windows(seed: int, n_windows: int, count: int) -> NDArray[np.uint64]:
    """The validation windows: the first `count` entries of the permutation of the stream [seed, "eval"].

    uint64 [min(count, n_windows)], all different.  A larger `count` only adds windows.
    """
    assert 1 <= n_windows <= LARGEST_W, n_windows
    return _permuted(round_keys(stream_key(seed, "eval")), n_windows, 0, min(count, n_windows))
