"""The diagram of a global batch."""

from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.batch import Batch
from llmrun.core.lanes import cost_of
from llmrun.plan.degrees import micro_batches_per_rank
from llmrun.plan.render.batch_diagram import batch_diagram, equation


def make_batch(D: int, V: int, per_lane: int = 1, mu_tok: int = 2048) -> Batch:
    """M = V · per_lane micro-batches of `mu_tok` tokens."""
    return Batch(V * per_lane * mu_tok, mu_tok, 256, V, D, 4 * 2**20, 0)


def test_two_ranks() -> None:
    """Step, accumulation steps, ranks with their lanes, all with the user's numbers."""
    assert batch_diagram(make_batch(D=2, V=8)) == [
        "optimizer step, in tokens                    16,384 = GB_tok",
        "├─ accumulation step 1 of A = 4               4,096 = D · μ_tok",
        "│  ├─ rank 0 (lanes 0-3): 8 sequences × 256   2,048 = μ_tok",
        "│  └─ rank 1 (lanes 4-7): 8 sequences × 256   2,048",
        "├─ ⋮  2 more",
        "├─ accumulation step 4                        4,096",
        "└─ V = 8 lanes, added in one tree of height 3: the same bits for every D",
    ]


def test_one_rank_and_one_micro_batch() -> None:
    """The smallest batch has no second step and no tree."""
    assert batch_diagram(make_batch(D=1, V=1, mu_tok=256)) == [
        "optimizer step, in tokens                256 = GB_tok",
        "├─ accumulation step 1 of A = 1          256 = D · μ_tok",
        "│  └─ rank 0 (lane 0): 1 sequence × 256  256 = μ_tok",
        "└─ V = 1 lane: no sum across lanes",
    ]


def test_many_ranks_are_drawn_by_first_and_last() -> None:
    """64 ranks take four lines; the last step is told apart."""
    lines = batch_diagram(make_batch(D=64, V=64, per_lane=4))

    assert [line.split(":")[0] for line in lines[2:6]] == [
        "│  ├─ rank 0 (lane 0)",
        "│  ├─ rank 1 (lane 1)",
        "│  ├─ ⋮  61 more",
        "│  └─ rank 63 (lane 63)",
    ]


def test_an_uneven_D_says_how_many_steps_each_rank_takes() -> None:
    """7 ranks share 64 lanes: 8 to 10 micro-batches each, and fewer ranks work in the last step."""
    batch = make_batch(D=7, V=64)
    lines = batch_diagram(batch)
    fewest, most = micro_batches_per_rank(batch, cost_of(64, 7))

    assert f"of {fewest} to {most}, by rank" in lines[1]
    assert f"├─ accumulation step {most}: " in lines[-2]
    assert "of 7 ranks" in lines[-2]
    assert equation(batch) == "GB_tok = M · μ_tok      131,072 = 64 · 2,048"


def test_the_equation() -> None:
    """GB_tok = D · A · μ_tok in the user's numbers."""
    assert equation(make_batch(D=2, V=8)) == "GB_tok = D · A · μ_tok      16,384 = 2 · 4 · 2,048"


@given(V=st.integers(1, 40), D=st.integers(1, 40), per_lane=st.integers(1, 3))
def test_every_batch_can_be_drawn(V: int, D: int, per_lane: int) -> None:
    """For any V and D the diagram is at most 11 lines, and ranks' micro-batches add up to M."""
    D = min(D, V)
    batch = make_batch(D, V, per_lane)
    lanes = cost_of(V, D)
    fewest, most = micro_batches_per_rank(batch, lanes)

    assert len(batch_diagram(batch)) <= 11
    assert sum(lanes.lanes_per_rank) * per_lane == batch.M
    assert fewest <= batch.M / D <= most
