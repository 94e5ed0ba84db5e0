"""Spot checks: the draw, and the chance that falsified steps escape it."""

import hashlib
import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.verify.replay.plan import Draw, draw_windows, escape_of, escape_probability
from llmrun.verify.replay.render import percent

CHAIN = bytes(range(32))


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 9))
def test_the_formula_counts_all_draws(n_blocks, n_bad, n_drawn):
    """Every set of k blocks of W, enumerated: the share of those without a bad block is the formula's."""
    n_bad, n_drawn = min(n_bad, n_blocks), min(n_drawn, n_blocks)
    draws = list(itertools.combinations(range(n_blocks), n_drawn))
    escaped = sum(1 for draw in draws if all(block >= n_bad for block in draw))

    assert escape_probability(n_blocks, n_bad, n_drawn) == pytest.approx(
        float(Fraction(escaped, len(draws))), rel=1e-12
    )


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 8), st.integers(1, 60))
def test_no_way_of_falsifying_escapes_more_or_less(n_steps, length, count, seed):
    """Any set of falsified steps escapes with a chance between the two that are told, by its number of blocks."""
    draw = draw_windows(CHAIN, 0, n_steps, length, count)
    n_bad = random.Random(seed).randint(1, n_steps)
    falsified = random.Random(seed).sample(range(n_steps), n_bad)
    blocks = {step // length for step in falsified}
    escape = escape_of(draw, Fraction(n_bad, n_steps))
    own = escape_probability(draw.n_blocks, len(blocks), len(draw.windows))

    assert escape.n_falsified == n_bad
    assert escape.if_spread <= own <= escape.at_most


@pytest.mark.parametrize(("p", "how"), [(0.05, "clustered"), (0.05, "spread"), (0.2, "clustered")])
def test_the_chance_is_what_happens(p, how):
    """2,000 draws with other seeds: falsified steps escape as often as told, within four standard deviations."""
    n_steps, length, count, tries = 1000, 10, 8, 2000
    n_bad = int(p * n_steps)
    bad = set(range(1, n_bad + 1)) if how == "clustered" else set(range(5, n_steps, n_steps // n_bad))
    draws = [draw_windows(CHAIN, seed, n_steps, length, count) for seed in range(tries)]
    missed = sum(1 for draw in draws if not any(a <= step <= b for a, b in draw.windows for step in bad))
    escape = escape_of(draws[0], p)
    expected = escape.at_most if how == "clustered" else escape.if_spread
    deviation = (expected * (1 - expected) / tries) ** 0.5

    assert missed / tries == pytest.approx(expected, abs=4 * deviation)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**63 - 1))
def test_windows_are_whole_blocks_without_overlap(n_steps, length, count, seed):
    """Ascending, inside the run, `length` steps each but the last; as many as request for, or all there are."""
    draw = draw_windows(CHAIN, seed, n_steps, length, count)

    assert len(draw.windows) == min(count, draw.n_blocks)
    assert list(draw.windows) == sorted(set(draw.windows))
    for first, last in draw.windows:
        assert (first - 1) % length == 0
        assert last == min(first - 1 + length, n_steps)


def test_each_block_is_drawn_equally_often():
    """10,000 draws of 2 of 10 blocks: each comes in a fifth of them, within four standard deviations."""
    tries = 10_000
    counts = dict.fromkeys(range(10), 0)
    for seed in range(tries):
        for first, _ in draw_windows(CHAIN, seed, 100, 10, 2).windows:
            counts[(first - 1) // 10] += 1

    assert all(abs(count - tries / 5) < 4 * (tries * 0.2 * 0.8) ** 0.5 for count in counts.values())


def test_a_stranger_can_draw_again():
    """The draw, worked out from its description with nothing of llmrun."""
    key = b"llmrun-windows/1\0" + CHAIN + b"\0" + b"7" + b"\0"
    ranks = sorted((hashlib.sha256(key + str(block).encode()).digest(), block) for block in range(25))
    expected = sorted((20 * block + 1, min(20 * block + 20, 490)) for _, block in ranks[:3])

    assert draw_windows(CHAIN, 7, 490, 20, 3) == Draw(490, 20, 7, tuple(expected))
    assert draw_windows(CHAIN, 8, 490, 20, 3) != draw_windows(CHAIN, 7, 490, 20, 3)
    assert draw_windows(CHAIN[::-1], 7, 490, 20, 3) != draw_windows(CHAIN, 7, 490, 20, 3)


def test_the_table_of_the_docs():
    """docs/verify.md: 100,000 steps, windows of 20, 10 of them."""
    draw = draw_windows(CHAIN, 0, 100_000, 20, 10)
    found = [escape_of(draw, p) for p in (0.001, 0.01, 0.05, 0.1)]
    blocks = [(5, 100), (50, 1000), (250, 5000), (500, 5000)]
    told = [tuple(math.comb(5000 - b, 10) / math.comb(5000, 10) for b in pair) for pair in blocks]
    rows = [f"| {100 * e.fraction:g} % | {percent(e.at_most)} | {percent(e.if_spread)} |" for e in found]
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()

    assert [(e.at_most, e.if_spread) for e in found] == [pytest.approx(pair, rel=1e-9) for pair in told]
    assert [row for row in rows if row not in page] == []
