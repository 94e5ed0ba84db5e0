"""The order of sums: against test vectors, a plain reference, and an exact oracle."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from llmrun.core.lanes import buffers_needed, cost_of, lanes_of_rank
from llmrun.core.reduce.tree import TreeMerge, finish_tree, maximal_nodes, node_lanes, tree_height, tree_sum

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
SPECIAL = [0.0, -0.0, float("inf"), float("-inf"), 1e-45, -1e-45, 3.4e38, 1.0, -1.0]


def float_of(bits: str) -> float:
    """A float32 from 8 hex digits."""
    return struct.unpack(">f", bytes.fromhex(bits))[0]


def reference(values: list[np.float32], V: int, node: tuple[int, int]) -> np.float32:
    """The defined order, written as the definition reads."""
    k, i = node
    if k == 0:
        return values[i]
    left, right = (k - 1, 2 * i), (k - 1, 2 * i + 1)
    if len(node_lanes(V, right)) == 0:
        return reference(values, V, left)
    return np.float32(reference(values, V, left) + reference(values, V, right))


def shared_sum(values: list[np.float32], V: int, D: int) -> np.float32:
    """The tree finished by an owner from the maximal nodes of D ranks."""
    nodes = [
        (node, torch.tensor([reference(values, V, node)]))
        for rank in range(D)
        for node in maximal_nodes(V, lanes_of_rank(V, D, rank))
    ]
    return np.float32(finish_tree(V, nodes)[0].item())


@pytest.mark.parametrize("case", VECTORS["tree"], ids=lambda case: f"V={case['V']}")
def test_tree_vectors(case):
    """The published sums come out, bit for bit."""
    values = [np.float32(float_of(bits)) for bits in case["lanes"]]
    for D in range(1, case["V"] + 1):
        assert shared_sum(values, case["V"], D).tobytes()[::-1].hex() == case["sum"]


@pytest.mark.parametrize("case", VECTORS["maximal_nodes"], ids=lambda case: str(case["lanes"]))
def test_maximal_nodes_vectors(case):
    """The published covers come out."""
    assert [list(n) for n in maximal_nodes(case["V"], range(*case["lanes"]))] == case["nodes_k_i"]


@given(st.data())
@settings(deadline=None)
def test_any_D_gives_the_bits_of_the_definition(data):
    """For any V and D, also with infinities, NaN, subnormals and signed zeros."""
    V = data.draw(st.integers(1, 70))
    D = data.draw(st.integers(1, V))
    number = st.one_of(st.floats(width=32, allow_nan=True), st.sampled_from(SPECIAL))
    values = [np.float32(x) for x in data.draw(st.lists(number, min_size=V, max_size=V))]
    with np.errstate(all="ignore"):
        expected = reference(values, V, (tree_height(V), 0))

        assert shared_sum(values, V, D).tobytes() == expected.tobytes() or (
            np.isnan(expected) and np.isnan(shared_sum(values, V, D))
        )


@given(st.integers(1, 200), st.data())
def test_lanes_are_shared_out_and_folded(V, data):
    """Every lane has one host, nobody hosts more than ceil(V/D), and folding ends in the maximal nodes."""
    D = data.draw(st.integers(1, V))
    hosted = [lanes_of_rank(V, D, rank) for rank in range(D)]
    assert [lane for lanes in hosted for lane in lanes] == list(range(V))
    assert max(map(len, hosted)) == -(-V // D)
    for lanes in hosted:
        merge: TreeMerge[int] = TreeMerge(V, lanes)
        for lane in lanes:
            merge.append((0, lane), lane)
        assert merge.nodes == maximal_nodes(V, lanes)
        assert merge.values == [node_lanes(V, node).start for node in merge.nodes]
        assert buffers_needed(V, lanes) <= 2 * len(lanes).bit_length() + 1


def test_power_of_two_is_the_cheap_case():
    """D = V/2^k sends one node a rank; k lanes need log2(k)+1 buffers."""
    for k in range(7):
        cost = cost_of(64, 64 >> k)
        assert set(cost.nodes_per_rank) == {1}
        assert cost.buffers == k + 1
        assert cost.idle_share == 0.0


def test_uneven_cost_is_that_of_the_design():
    """V = 64, D = 7: 1.9 nodes a rank, 9 % uneven; V = 8, D = 7: 75 % above the mean."""
    cost = cost_of(64, 7)
    assert round(sum(cost.nodes_per_rank) / 7, 1) == 1.9
    assert round(max(cost.lanes_per_rank) / (64 / 7) - 1, 2) == 0.09
    assert max(cost_of(8, 7).lanes_per_rank) / (8 / 7) - 1 == pytest.approx(0.75)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300))
def test_tree_sum_is_near_the_exact_sum(values):
    """An order-free exact sum is the oracle: the tree is within (log2 n + 1) roundings of the largest sum."""
    exact = sum(Fraction(v) for v in values)
    bound = sum(abs(v) for v in values) * 2.0**-53 * (len(values).bit_length() + 1)
    assert abs(Fraction(tree_sum(values)) - exact) <= bound


def test_tree_sum_is_the_tree():
    """The losses are added in the tree of the lanes."""
    rng = np.random.default_rng(0)
    for M in range(1, 40):
        values = rng.standard_normal(M)
        nodes = [((0, i), torch.tensor([v], dtype=torch.float64)) for i, v in enumerate(values)]
        assert tree_sum(list(values)) == finish_tree(M, nodes)[0].item()


@given(st.data())
def test_float32_tree_is_near_the_exact_sum(data):
    """An independent oracle, exact and free of order: int64 fixed point, for values on a grid of 2^-20."""
    V = data.draw(st.integers(1, 40))
    D = data.draw(st.integers(1, V))
    grid = data.draw(st.lists(st.integers(-(2**23), 2**23), min_size=V, max_size=V))
    values = [np.float32(g * 2.0**-20) for g in grid]
    exact = int(np.sum(np.array(grid, dtype=np.int64))) * 2.0**-20

    bound = sum(abs(float(v)) for v in values) * 2.0**-24 * (tree_height(V) + 1)
    assert abs(float(shared_sum(values, V, D)) - exact) <= bound
