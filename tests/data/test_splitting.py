"""Which documents are validation."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmrun.data.splits import exact_fraction, tail_tokens, validation_documents

HASHES = [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)]


def chosen_of(hashes, fraction):
    """The hashes that are validation."""
    positions = np.array([int(sha256[:16], 16) for sha256 in hashes], np.uint64)
    mask = validation_documents(positions, fraction)
    return {sha256 for sha256, is_val in zip(hashes, mask, strict=True) if is_val}


def test_by_hash():
    """A document is validation where its hash lies below the fraction, whatever the others are."""
    chosen = chosen_of(HASHES, 0.25)

    assert chosen == {sha256 for sha256 in HASHES if sha256 < "4"}
    assert chosen_of(HASHES[:150], 0.25) == chosen & set(HASHES[:150])


@given(st.sets(st.sampled_from(HASHES), min_size=2), st.floats(1e-9, 0.999999))
def test_neither_is_empty(hashes, fraction):
    """Where two documents differ, both splits have one."""
    chosen = chosen_of(sorted(hashes), fraction)

    assert 0 < len(chosen) < len(hashes)


def test_none_asked():
    """Fraction 0 keeps everything for training; copies of one document all train."""
    assert chosen_of(HASHES, 0) == set()
    assert chosen_of([max(HASHES)] * 5, 0.01) == set()


def test_tail_is_exact():
    """The fraction is the decimal number that was written: 0.1 of 10^17 + 9 tokens is 10^16."""
    assert exact_fraction(0.1) == exact_fraction(1) / 10
    assert tail_tokens(10**17 + 9, 0.1) == 10**16
    assert tail_tokens(7, 0.1) == 0
