"""The learning rate as a function of the step."""

import math
import re
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from llmrun.config.schema import ScheduleConfig
from llmrun.core.batch import Batch
from llmrun.core.schedule import learning_rate, rates_of

PAGE = Path(__file__).parents[2] / "docs" / "learning-rate.md"
OLD_RATES = {
    "cosine": ["0x1.a36e2eb1c432cp-14", "0x1.2fcc1f98d5cb6p-12", "0x1.5a07b352a8437p-13"],
    "linear": ["0x1.a36e2eb1c432cp-14", "0x1.172ef0ae53650p-12", "0x1.5a07b352a8437p-13"],
    "constant": ["0x1.a36e2eb1c432cp-14", "0x1.3a92a30553261p-12", "0x1.3a92a30553261p-12"],
}
NAMES = st.sampled_from(["cosine", "linear", "constant"])


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


def drawn_rates(gb_tok, steps, rest, warmup, decay, name, final, lr):
    """All rates of a drawn run, its steps of warm-up, and the tokens of its decay."""
    T_tokens = steps * gb_tok + rest % gb_tok
    warmup = warmup % (T_tokens + 1)
    decay = None if name != "constant" else decay % (T_tokens - warmup + 1)
    config = ScheduleConfig(name=name, warmup_tokens=warmup, decay_tokens=decay, final_lr_fraction=final)
    run = Batch(gb_tok, gb_tok, gb_tok, 1, 1, T_tokens, warmup)
    return [learning_rate(step, run, config, lr) for step in range(1, steps + 1)], config, run


@given(
    gb_tok=st.integers(1, 5000),
    steps=st.integers(1, 300),
    rest=st.integers(0, 5000),
    warmup=st.one_of(st.integers(0, 2000), st.integers(0, 2_000_000)),
    decay=st.one_of(st.integers(0, 2000), st.integers(0, 2_000_000)),
    name=NAMES,
    final=st.one_of(st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 1)),
    lr=st.floats(1e-6, 10),
)
def test_every_run_keeps_what_its_schedule_promises(gb_tok, steps, rest, warmup, decay, name, final, lr):
    """Up to exactly the peak, down to exactly the final rate, no step turns back, and none jumps."""
    rates, config, run = drawn_rates(gb_tok, steps, rest, warmup, decay, name, final, lr)
    W = min(math.ceil(config.warmup_tokens / gb_tok), steps)
    up, down = rates[:W], rates[W:]
    decay_tokens = (steps - W) * gb_tok
    if name == "constant":
        decay_tokens = min(decay_tokens, config.decay_tokens)

    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert all(0 < rate <= lr for rate in up)
    assert all(lr * final <= rate <= lr for rate in down)
    if W:
        assert rates[W - 1] == lr
        assert up == pytest.approx([lr * n / W for n in range(1, W + 1)], rel=1e-14)
    assert rates[-1] == (lr * final if decay_tokens else lr)
    if decay_tokens:
        steepest = (lr - lr * final) * min(1.0, math.pi / 2 * gb_tok / decay_tokens)
        assert max((a - b for a, b in pairwise([lr, *down])), default=0.0) <= steepest * (1 + 1e-9) + 1e-15
    shown = rates_of(run, config, lr)
    assert (shown.first, shown.peak, shown.last) == (rates[0], max(rates), rates[-1])


def test_the_rates_of_runs_without_a_corner_are_the_old_ones():
    """The same bits as before for whole steps of warm-up: a run of 11 steps of 1,000 tokens, 3 of warm-up."""
    run = Batch(1000, 1000, 1000, 1, 1, 11_000, 3000)
    found = {
        name: [
            learning_rate(n, run, ScheduleConfig(name=name, warmup_tokens=3000), 3e-4).hex()
            for n in (1, 4, 7)
        ]
        for name in ("cosine", "linear", "constant")
    }

    assert found == OLD_RATES


def rows_of_the_page():
    """The table of corner cases in docs/learning-rate.md: settings, then the rates of each step."""
    table = re.findall(r"^\| `(.+?)` \|.*?\| `(.+?)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(dict(pair.split("=") for pair in settings.split()), shown.split()) for settings, shown in table]


def test_the_page_shows_at_least_the_corners():
    """The table is there."""
    assert len(rows_of_the_page()) >= 10


@pytest.mark.parametrize(("settings", "shown"), rows_of_the_page())
def test_the_page_tells_what_the_code_does(settings, shown):
    """Each row of the table of corner cases, step by step: 10 tokens a step, peak 1, final fraction 0.1."""
    name = settings.pop("name")
    T_tokens = int(settings.pop("T_tokens"))
    config = ScheduleConfig(name=name, **{key: int(value) for key, value in settings.items()})
    run = Batch(10, 10, 10, 1, 1, T_tokens, config.warmup_tokens)

    found = [learning_rate(n, run, config, 1.0) for n in range(1, run.steps + 1)]

    assert [f"{rate:.3g}" for rate in found] == shown
