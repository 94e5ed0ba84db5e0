"""The invariance matrix: D × strategy × straight or resumed at another D × loader workers × precision.

One weight digest and one ledger chain for each precision, in a pairwise array: every pair of values of two
columns occurs in some cell.  Reduced in `make test`, whole in `make test-all`, eight cells through torchrun.
"""

import random
from itertools import combinations, product

import pytest

from llmrun.launch.torchrun import TorchrunBackend
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.pool import PoolBackend

COLUMNS = {
    "D": (1, 2, 3, 4, 5, 7, 8),
    "strategy": ("replicate", "shard"),
    "then": (None, 1, 2, 3, 8),
    "workers": (0, 2),
    "precision": ("fp32", "bf16"),
}
"""then: stopped on the way and resumed at this D under the other strategy; None runs straight."""


def pairwise_array(columns: dict[str, tuple]) -> list[dict]:
    """Few cells in which every pair of values of two columns occurs: greedy, always the same."""
    names = list(columns)
    missing = {
        ((a, x), (b, y)) for a, b in combinations(names, 2) for x, y in product(columns[a], columns[b])
    }
    cells = [dict(zip(names, values, strict=True)) for values in product(*columns.values())]
    random.Random(7).shuffle(cells)
    chosen = []
    while missing:
        best = max(cells, key=lambda cell: len(missing & pairs_of(cell)))
        missing -= pairs_of(best)
        chosen.append(best)
    return chosen


def pairs_of(cell: dict) -> set:
    """The pairs of values in one cell."""
    return set(combinations(cell.items(), 2))


CELLS = pairwise_array(COLUMNS)


def check(driver, backend, pool, cell: dict) -> None:
    """One cell against the run on one rank with the same precision."""
    precision = f"precision={cell['precision']}"
    driver.train(pool, "one", precision)
    settings = [precision, f"strategy={cell['strategy']}", f"data.num_workers={cell['workers']}"]
    settings += [f"batch.D={cell['D']}", "batch.uneven=allow"]
    driver.train(backend, "cell", *settings, until=None if cell["then"] is None else 7)
    if cell["then"] is not None:
        other = "shard" if cell["strategy"] == "replicate" else "replicate"
        driver.resume(backend, "cell", f"strategy={other}", D=cell["then"])
    assert_equal_runs(driver.run("one"), driver.run("cell"), STEPS)


@pytest.mark.parametrize(
    "D", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_buckets_change_no_bit(driver, server, D):
    """Many buckets that travel during the backward pass, also at an uneven D: the bits of one rank."""
    pool, small = PoolBackend(server), PoolBackend(server, "small_buckets", elements=3000)
    driver.train(pool, "one")
    driver.train(small, "many", f"batch.D={D}", "batch.uneven=allow")
    assert_equal_runs(driver.run("one"), driver.run("many"), STEPS)


def label(cell: dict) -> str:
    """A cell's name."""
    return "-".join(map(str, cell.values()))


def test_the_array_is_pairwise():
    """Every pair occurs, in far fewer cells than the full matrix has."""
    found = set().union(*(pairs_of(cell) for cell in CELLS))
    for a, b in combinations(COLUMNS, 2):
        assert all(((a, x), (b, y)) in found for x, y in product(COLUMNS[a], COLUMNS[b]))
    assert len(CELLS) <= 40


@pytest.mark.parametrize("cell", CELLS[:4], ids=label)
def test_reduced_matrix(driver, pool, cell):
    """The first cells of the array."""
    check(driver, pool, pool, cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS[4:], ids=label)
def test_whole_matrix(driver, pool, cell):
    """The other cells."""
    check(driver, pool, pool, cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS[:8], ids=label)
def test_matrix_through_torchrun(driver, server, cell):
    """Real torchrun processes."""
    check(driver, TorchrunBackend(), PoolBackend(server), cell)
