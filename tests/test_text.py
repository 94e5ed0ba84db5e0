"""Counts, sizes, durations and cut lists, as every screen writes them."""

import pytest

from llmrun.text import counted, cut, format_bytes, format_duration, listed


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (12_340_000, "12.3 MB"),
        (1_234_567_890, "1.23 GB"),
        (156_000_000_000, "156 GB"),
        (10**19, "10,000 PB"),
    ],
)
def test_bytes(n_bytes, text):
    """Three digits and a unit of 1000."""
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.2, "1 s"),
        (59.1, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (356_400, "4 d 03 h"),
    ],
)
def test_duration(seconds, text):
    """Rounded up, in the two largest units."""
    assert format_duration(seconds) == text


def test_counts():
    """One thing, or several with separators."""
    assert [counted(n, "step") for n in (0, 1, 2000)] == ["0 steps", "1 step", "2,000 steps"]


def test_cut_lists():
    """What is left out is counted; a list that fits is whole."""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert cut(["a", "b", "c"], 1, "more tensors") == ["a", "and 2 more tensors"]
    assert cut([], 1) == []
