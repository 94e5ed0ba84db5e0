"""How far two tensors lie apart, from their bytes."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.verify.tensor_distance import element_distance


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@given(data=st.data())
def test_neighbours_are_one_ulp_apart(dtype, data):
    """Any finite number and the next one, in any element, also across zero."""
    width = np.dtype(dtype).itemsize * 8
    value = data.draw(st.floats(width=width, allow_nan=False, allow_infinity=False))
    place = data.draw(st.integers(0, 4))
    a = np.zeros(5, dtype)
    a[place] = value
    b = a.copy()
    b[place] = np.nextafter(a[place], np.array(np.inf, dtype))
    distance = element_distance(dtype, a.tobytes(), b.tobytes())

    crosses_zero = value == 0.0
    assert (distance.n_elements, distance.n_differing, distance.first_index) == (5, 1, place)
    assert distance.ulps_max == (2 if crosses_zero and np.signbit(a[place]) else 1)
    assert (distance.a, distance.b) == (float(a[place]), float(b[place]))


def test_bfloat16_is_the_upper_half_of_a_float():
    """0x3f80 is 1, the next one 1.0078125."""
    a, b = struct.pack("<2h", 0x3F80, 0x4000), struct.pack("<2h", 0x3F81, 0x4000)
    distance = element_distance("bfloat16", a, b)

    assert (distance.n_differing, distance.ulps_max, distance.a, distance.b, distance.absolute_max) == (
        1,
        1,
        1.0,
        1.0078125,
        0.0078125,
    )


def test_equal_bytes_have_no_gap():
    """Also where they are no numbers."""
    nan = np.full(3, np.nan, np.float32).tobytes()

    assert element_distance("float32", nan, nan) is None


def test_integers_have_no_ulps_and_infinities_are_text_in_json():
    """Tokens are compared as numbers; JSON has no infinity."""
    tokens = element_distance("int64", np.array([1, 5]).tobytes(), np.array([1, 9]).tobytes())
    infinite = element_distance("float32", np.array([np.inf], "f4").tobytes(), np.array([1], "f4").tobytes())

    assert (tokens.ulps_max, tokens.absolute_max) == (None, 4.0)
    assert (infinite.as_json()["a"], infinite.as_json()["absolute_max"]) == ("inf", "inf")
