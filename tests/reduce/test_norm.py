"""The exact gradient norm."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from llmrun.reduce.norm import clip_factor, exponent_of, largest_magnitude, norm_of, square_sum


def norm(values: torch.Tensor, cuts: list[int]) -> float:
    """The norm from shards cut at multiples of 64."""
    shards = [s for s in torch.tensor_split(values, [64 * c for c in cuts]) if s.numel()]
    exponent = exponent_of(max(largest_magnitude(s) for s in shards))
    return norm_of(sum(square_sum(s, exponent) for s in shards), exponent)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 700), max_size=6), st.floats(-30, 30))
@settings(deadline=None, max_examples=40)
def test_no_split_changes_a_bit(seed, cuts, scale):
    """Any cut into shards gives one bit pattern, for gradients of any scale."""
    values = torch.randn(64 * 700, generator=torch.Generator().manual_seed(seed)) * 2.0**scale

    assert norm(values, sorted(cuts)).hex() == norm(values, []).hex()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_norm_is_accurate(scale):
    """Within 1e-12 of float64; torch's float32 norm is nine orders worse."""
    values = torch.randn(64 * 4096, generator=torch.Generator().manual_seed(1)) * scale
    exact = np.sqrt(np.sum(np.square(values.numpy().astype(np.float64) / scale))) * scale

    assert norm(values, []) == pytest.approx(exact, rel=1e-12)


def test_zero_and_one_element():
    """A gradient of zeros has norm 0; one element has its magnitude."""
    assert norm(torch.zeros(64), []) == 0.0
    one = torch.zeros(128)
    one[70] = -0.375
    assert norm(one, [1]) == 0.375


def test_non_finite_shows_in_the_magnitude():
    """NaN and infinity are never lost in the maximum."""
    values = torch.zeros(64)
    values[3] = float("nan")
    assert np.isnan(largest_magnitude(values))
    values[3] = float("-inf")
    assert largest_magnitude(values) == np.inf


def test_clip_factor():
    """min(1, clip / (norm + 1e-6)); no clip, factor 1."""
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == 1.0 / (4.0 + 1e-6)
    assert clip_factor(1e9, None) == 1.0
