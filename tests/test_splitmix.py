"""splitmix64 in both its forms."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.splitmix import splitmix64, splitmix64_array

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())["splitmix64"]


def test_vectors():
    """Both forms give the published numbers."""
    inputs = np.array([x for x, _ in VECTORS], dtype=np.uint64)
    expected = [int(digits, 16) for _, digits in VECTORS]

    assert [splitmix64(x) for x, _ in VECTORS] == expected
    assert splitmix64_array(inputs).tolist() == expected


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_array_equals_scalar(numbers):
    """The array form does to each element what the scalar form does, and leaves its input alone."""
    array = np.array(numbers, dtype=np.uint64)

    assert splitmix64_array(array).tolist() == [splitmix64(x) for x in numbers]
    assert array.tolist() == numbers
