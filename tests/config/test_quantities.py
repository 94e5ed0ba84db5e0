"""Quantities as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.config.quantities import LARGEST, SUFFIXES, QuantityError, parse_quantity, show_quantity


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (524288, 524288),
        ("524288", 524288),
        ("524_288", 524288),
        ("512Ki", 512 * 1024),
        ("512 Ki", 512 * 1024),
        ("0.5M", 500_000),
        ("1.5Ki", 1536),
        ("1T", 10**12),
        ("1e12", 10**12),
        ("2.5e3", 2500),
        ("1e-3K", 1),
        (1e12, 10**12),
        ("3B", 3 * 10**9),
        ("3G", 3 * 10**9),
        ("1Ti", 2**40),
        ("+7", 7),
        ("-7", -7),
        (str(LARGEST), LARGEST),
    ],
)
def test_quantity_is_read(written: object, value: int) -> None:
    """Each documented spelling means its exact integer."""
    assert parse_quantity(written) == value


@pytest.mark.parametrize(
    "written",
    ["", "K", "1k", "1 M i", "1KiB", "0x10", "1__0", "1_", "_1", "012", "1e", "1e1000", ".5M", "1.", "1,000", "½", "١", "inf", "nan", True, None, [1], "1" * 65],
)  # fmt: skip
def test_malformed_quantity_is_refused(written: object) -> None:
    """What is no quantity is refused, digits of other scripts and doubtful octals included."""
    with pytest.raises(ValueError, match="must be a quantity such as"):
        parse_quantity(written)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("0.3Ki", "0.3Ki = 307.2"),
        ("1.00000000000000000000000000000000000001Ki", "1.00000000000000000000000000000000000001Ki = 1024.00000000000000000000000000000000001024"),
        (1.5, "1.5"),
        ("9223372036854775808", "9223372036854775808"),
        ("1e300", "1e300"),
        (2**63, "9223372036854775808"),
    ],
)  # fmt: skip
def test_invalid_number_is_refused_with_its_exact_value(written: object, shown: str) -> None:
    """A number that is not whole or too large is refused with the number, however close it comes."""
    with pytest.raises(QuantityError) as caught:
        parse_quantity(written)

    assert str(caught.value).endswith(f", got {shown}")


@given(st.integers(-LARGEST, LARGEST))
def test_shown_quantity_reads_back(value: int) -> None:
    """What show_quantity writes is read as the same integer, for any integer."""
    assert parse_quantity(show_quantity(value)) == value


@given(st.integers(0, 2**22), st.sampled_from(sorted(SUFFIXES)))
def test_suffix_multiplies(number: int, suffix: str) -> None:
    """A suffix multiplies by its power, exactly."""
    assert parse_quantity(f"{number}{suffix}") == number * SUFFIXES[suffix]
