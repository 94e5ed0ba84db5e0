"""The order: a specified permutation, entry by entry."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core import order as order_module
from llmrun.core.order import Order, feistel, feistel_one, fixed_windows, half_bits, round_keys

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["order"]
SEEDS = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"W={v['W']}")
def test_vectors(vector):
    """The order begins and ends as published."""
    order = Order(vector["seed"], vector["W"])
    begin, n_first = vector["epoch"] * vector["W"], len(vector["first"])

    assert order.entries(begin, n_first).tolist() == vector["first"]
    assert [order.entry(begin + i) for i in range(n_first)] == vector["first"]
    assert order.entry(begin + vector["W"] - 1) == vector["last"]


@given(SEEDS, st.integers(0, 100), st.integers(1, 3000))
def test_permutation(seed, epoch, W):
    """Any epoch of any seed visits each of W windows exactly once."""
    entries = Order(seed, W).entries(epoch * W, W)

    assert np.array_equal(np.sort(entries), np.arange(W, dtype=np.uint64))


@given(SEEDS, st.integers(1, 500), st.integers(0, 2000), st.integers(0, 1200))
def test_entries_equal_entry(seed, W, start, count):
    """Any stretch, also across epochs, is what its entries are one by one."""
    order = Order(seed, W)

    assert order.entries(start, count).tolist() == [order.entry(p) for p in range(start, start + count)]


@given(SEEDS, st.integers(1, 2**48), st.integers(0, 2**50))
def test_large(seed, W, p):
    """Single entries of huge orders are within bounds and equal in both forms."""
    order = Order(seed, W)

    assert 0 <= order.entry(p) < W
    assert order.entries(p, 2).tolist() == [order.entry(p), order.entry(p + 1)]


def test_epochs_straddle():
    """A stretch across the end of an epoch joins the end of one permutation to the start of the next."""
    order = Order(7, 10)
    both = order.entries(0, 20).tolist()

    assert order.entries(8, 4).tolist() == both[8:12]
    assert sorted(both[:10]) == sorted(both[10:]) == list(range(10))
    assert both[:10] != both[10:]


def test_blocks(monkeypatch):
    """The size of the blocks in which entries are computed changes nothing."""
    whole = Order(3, 5000).entries(100, 9000)
    monkeypatch.setattr(order_module, "BLOCK_ENTRIES", 7)

    assert np.array_equal(Order(3, 5000).entries(100, 9000), whole)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 400))
def test_feistel_forms_agree(key, W):
    """The array form and the scalar form are one function of keys and index."""
    keys = round_keys(key)

    assert feistel(keys, W, np.arange(W, dtype=np.uint64)).tolist() == [
        feistel_one(keys, W, i) for i in range(W)
    ]


@pytest.mark.parametrize(("W", "half"), [(1, 0), (2, 1), (4, 1), (5, 2), (16, 2), (17, 3), (2**48, 24)])
def test_half_bits(W, half):
    """The network works on the smallest even number of bits that holds W-1."""
    assert half_bits(W) == half


@given(SEEDS, st.integers(1, 500), st.integers(0, 600))
def test_fixed_windows(seed, W, count):
    """The validation windows are different windows, and a larger count only adds some."""
    windows = fixed_windows(seed, W, count).tolist()

    assert len(windows) == len(set(windows)) == min(count, W)
    assert all(0 <= w < W for w in windows)
    assert fixed_windows(seed, W, count + 10).tolist()[: len(windows)] == windows


def test_fixed_windows_are_no_epoch():
    """The validation windows come from a stream of their own."""
    assert fixed_windows(42, 1000, 50).tolist() != Order(42, 1000).entries(0, 50).tolist()
    assert fixed_windows(42, 1000, 6).tolist() == [632, 857, 999, 432, 914, 970]
