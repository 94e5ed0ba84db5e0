"""The learning rate as a function of the step."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from llmrun.config.batch import Batch
from llmrun.config.sections import ScheduleConfig
from llmrun.train.schedule import learning_rate


def batch(steps: int, warmup_tokens: int, gb_tok: int = 1024) -> Batch:
    """A run of `steps` steps."""
    return Batch(
        gb_tok=gb_tok,
        mu_tok=gb_tok,
        L_ctx=gb_tok,
        V=1,
        D=1,
        T_tokens=steps * gb_tok + 5,
        warmup_tokens=warmup_tokens,
    )


def rates(name: str, steps: int = 20, warmup: int = 4 * 1024, **schedule) -> list[float]:
    """All learning rates of a run with peak 1."""
    config = ScheduleConfig(name=name, warmup_tokens=warmup, **schedule)
    return [learning_rate(step, batch(steps, warmup), config, 1.0) for step in range(1, steps + 1)]


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_shape(name):
    """Linear warm-up to the peak, never above it, and the last update at the final rate exactly."""
    found = rates(name, final_lr_fraction=0.1)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[-1] == 0.1
    assert max(found) == 1.0
    assert found[3:] == sorted(found[3:], reverse=True)


def test_half_way():
    """Cosine and linear are at the mean of peak and end half-way."""
    assert rates("cosine")[11] == pytest.approx(0.55)
    assert rates("linear")[11] == pytest.approx(0.55)


def test_constant_decays_at_the_end():
    """Constant stays at the peak until decay_tokens before the end."""
    found = rates("constant", decay_tokens=4 * 1024, final_lr_fraction=0.0)
    assert found[3:16] == [1.0] * 13
    assert found[16:] == [0.75, 0.5, 0.25, 0.0]


@given(st.integers(1, 500), st.integers(0, 600_000), st.sampled_from(["cosine", "linear", "constant"]))
def test_any_run_has_rates_between_zero_and_the_peak(steps, warmup, name):
    """Also where warm-up is the whole run or longer than its whole steps."""
    warmup = min(warmup, steps * 1024 + 5)
    found = rates(name, steps, warmup)
    assert all(0.0 <= rate <= 1.0 for rate in found)
