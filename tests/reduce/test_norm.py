"""The exact gradient norm."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from llmrun.core.reduce import norm as module
from llmrun.core.reduce.norm import (
    clip_factor,
    exponent_of,
    from_limbs,
    largest_magnitude,
    norm_of,
    square_sum,
    to_limbs,
)


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


def integers_of(values: torch.Tensor, exponent: int) -> list[int]:
    """Each scaled square, rounded to even by Python's exact arithmetic."""
    return [round(Fraction(v) ** 2 * Fraction(4) ** (24 - exponent)) for v in values.tolist()]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_the_sum_is_that_of_exact_integers(numbers, spare):
    """For any finite values, also subnormal ones, and any exponent that is large enough."""
    values = torch.tensor(numbers, dtype=torch.float32)
    exponent = exponent_of(largest_magnitude(values)) + spare

    assert square_sum(values, exponent) == sum(integers_of(values, exponent))


def square_sum_in_small_steps(values: torch.Tensor, exponent: int) -> int:
    """The magic number taken off each element before any is added."""
    magic = torch.tensor(1.5 * 2.0**52, dtype=torch.float64)
    x = values.to(torch.float64).mul_(2.0 ** (24 - exponent))
    integers = torch.addcmul(magic, x, x).view(torch.int64) - magic.view(torch.int64)
    return sum(int(part.sum()) for part in torch.split(integers, 2**14))


@pytest.mark.parametrize("blocks_at_once", [1, 3, 16, 1024])
@pytest.mark.parametrize("n", [64, 2**14, 2**14 + 64, 16 * 2**14, 40 * 2**14 + 192])
def test_the_size_of_a_step_changes_nothing(monkeypatch, n, blocks_at_once):
    """Values at the largest magnitude and at the smallest give the same integer at every size of the buffer."""
    monkeypatch.setattr(module, "_CHUNK_BLOCKS_CPU", blocks_at_once)
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))
    values[::3] = 0.99999994
    values[1::7] *= 1e-9
    exponent = exponent_of(largest_magnitude(values))

    assert square_sum(values, exponent) == square_sum_in_small_steps(values, exponent)


@given(st.lists(st.integers(0, 2**120), min_size=1, max_size=64))
def test_limbs_add_up(sums):
    """Any sums of squares travel as integers of 63 bits, and the limbs of all ranks are added on their own."""
    limbs = [to_limbs(total) for total in sums]

    assert all(0 <= part < 2**63 for pair in limbs for part in pair)
    assert from_limbs(sum(high for high, _ in limbs), sum(low for _, low in limbs)) == sum(sums)


def test_zero_and_one_element():
    """A gradient of zeros has norm 0; one element has its magnitude."""
    assert norm(torch.zeros(64), []) == 0.0
    one = torch.zeros(128)
    one[70] = -0.375
    assert norm(one, [1]) == 0.375


@pytest.mark.parametrize("n", [1, 64, 1000, 2**18])
def test_magnitude_is_that_of_either_sign(n):
    """The largest |g|, whichever sign it has."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))

    assert largest_magnitude(values) == largest_magnitude(-values) == float(values.abs().max())


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
