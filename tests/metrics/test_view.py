from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.live_view import HISTORY_MAX, RunFacts, RunView


def row(step: int, **more: object) -> dict[str, object]:
    return {
        "step": step,
        "tokens": step * 1000,
        "loss": 2.0,
        "loss_smooth": 2.5,
        "total_tokens_per_second": 500.0,
        **more,
    }


def view_of(*rows: dict[str, object], steps: int = 100) -> RunView:
    view = RunView(RunFacts("demo", steps))
    for one in rows:
        view.add(one)
    return view


def test_time_left() -> None:
    """90 steps of 1000 tokens at 500 tokens a second take 180 s."""
    view = view_of(row(10))

    assert view.seconds_left() == 180.0
    assert view.time_left() == "3 min 00 s"


def test_nothing_is_known_before_the_first_row() -> None:
    """Unknown figures are a dash, never a zero."""
    view = view_of()

    assert (view.step, view.time_left(), view.text("loss", ".4f"), view.rate("mfu")) == (0, "-", "-", "-")


def test_text_of_a_non_finite_number() -> None:
    """A gradient norm that JSON spells as a string is shown as what it is."""
    assert view_of(row(1, grad_norm="Infinity")).text("grad_norm", ".3g") == "inf"


def test_evaluation_stays_until_the_next_one() -> None:
    """The newest evaluation is kept while later steps have none."""
    view = view_of(row(1, val_loss=3.0, val_ppl=20.0), row(2), row(3))

    assert view.evaluated == row(1, val_loss=3.0, val_ppl=20.0)


def test_recomputed_steps_replace_the_old_ones() -> None:
    """After a resume at step 1 the losses and evaluations above it are forgotten."""
    view = view_of(row(1), row(2, val_loss=9.0), row(3), row(2, loss_smooth=7.0))

    assert view.losses == [(1, 2.5), (2, 7.0)]
    assert view.evaluated is None
    assert view.step == 2


@given(st.integers(1, 4 * HISTORY_MAX))
def test_history_is_bounded_and_spread_evenly(n_steps: int) -> None:
    """However long the run, the kept losses are few, ascending and evenly spaced."""
    view = view_of(*(row(step) for step in range(1, n_steps + 1)), steps=n_steps)
    kept = [step for step, _ in view.losses]

    assert min(n_steps, HISTORY_MAX // 2) <= len(kept) <= HISTORY_MAX
    assert len({after - before for before, after in pairwise(kept)}) <= 1
