"""The noise band, its file, and the rule by which a run has left it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.errors import InputError
from llmrun.storage.metrics.curves import first_equal_pair, read_curve
from llmrun.storage.metrics.loss_band import (
    OUT_MIN,
    OUT_OF,
    Band,
    Baseline,
    BaselineWatch,
    band_of,
    first_left,
)


def flat_band(steps: int = 100, n: int = 5) -> Band:
    """Mean 2, standard deviation 0.1 everywhere."""
    return Band(np.full(steps, 2.0), np.full(steps, 0.1), n)


def test_the_band_by_hand():
    """Losses 1, 2, 3: mean 2, sd 1; t(0.975, 2) = 4.303 times sqrt(4/3) is 4.968."""
    band = band_of([np.array([1.0, 5.0]), np.array([2.0, 5.0]), np.array([3.0, 5.0, 9.0])])

    assert (band.n, band.steps) == (3, 2)
    assert band.mean.tolist() == [2.0, 5.0]
    assert band.sd.tolist() == [1.0, 0.0]
    assert band.half_width(0.05)[0] == pytest.approx(4.302653 * math.sqrt(4 / 3), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_one_more_run_leaves_the_band_as_often_as_it_says(n):
    """10,000 draws: 5 % of them outside, whatever the number of runs behind the band."""
    rng = np.random.default_rng(n)
    band = band_of(list(rng.standard_normal((n, 10_000))))
    outside = np.abs(rng.standard_normal(10_000) - band.mean) > band.half_width(0.05)

    assert outside.mean() == pytest.approx(0.05, abs=0.008)


def test_z():
    """The edge of the 95 % band is z = 1.96; beyond the last step and without a number there is none."""
    band = flat_band()
    edge = 2.0 + float(band.half_width(0.05)[0])

    assert band.z(1, edge) == pytest.approx(1.96, abs=1e-3)
    assert band.z(100, 4.0 - edge) == pytest.approx(-1.96, abs=1e-3)
    assert band.z(101, 2.0) is None
    assert band.z(0, 2.0) is None
    assert band.z(5, math.nan) is None
    assert Band(np.array([np.nan]), np.array([np.nan]), 2).z(1, 2.0) is None


def test_a_baseline_without_scatter():
    """Equal losses are z = 0, any other is as far out as can be said."""
    band = Band(np.array([2.0]), np.array([0.0]), 3)

    assert (band.z(1, 2.0), band.z(1, 2.1), band.z(1, 1.9)) == (0.0, 38.0, -38.0)


def test_the_file_brings_everything_back(tmp_path):
    """Also a step that a run lacked."""
    band = Band(np.array([2.0, np.nan, 1 / 3]), np.array([0.1, np.nan, 1e-7]), 4)
    Baseline(("base-*",), ("base-1", "base-2"), band).write(tmp_path / "baseline.json")
    found = Baseline.read(tmp_path / "baseline.json")

    assert (found.asked, found.runs, found.band.n) == (("base-*",), ("base-1", "base-2"), 4)
    assert found.band.mean == pytest.approx(band.mean, rel=1e-8, nan_ok=True)
    assert found.band.sd == pytest.approx(band.sd, rel=1e-8, nan_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "llmrun-baseline/9"}, "llmrun-baseline/9"),
        ({"mean": [1.0]}, "is damaged"),
        ({"sd": [None, None, None]}, "is damaged"),
        ({"n": 1}, "is damaged"),
        ({"n": "many"}, "is damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    """Nothing is watched against numbers that nobody wrote."""
    path = tmp_path / "baseline.json"
    Baseline(("a", "b"), ("a", "b"), flat_band(3)).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        Baseline.read(path)


def test_no_file_and_no_json(tmp_path):
    """A missing and a torn file."""
    (tmp_path / "torn.json").write_text('{"format": "llm')
    for name, message in (("none.json", "none.json"), ("torn.json", "torn.json is damaged")):
        with pytest.raises(InputError, match=message):
            Baseline.read(tmp_path / name)


def watched(losses, band=None) -> tuple[list[dict], list[tuple[int, str]]]:
    """Rows and warnings, as (step, text), of a run with these smoothed losses."""
    watch = BaselineWatch(band or flat_band(len(losses)))
    rows, warnings = [], []
    for step, loss in enumerate(losses, start=1):
        row, warning = watch.step(step, loss)
        rows.append(row)
        if warning is not None:
            warnings.append((step, warning))
    return rows, warnings


def test_a_run_that_stays_is_not_warned_of():
    """Rows hold the band and the z; nothing is said."""
    rows, warnings = watched([2.05] * 50)

    assert warnings == []
    assert set(rows[0]) == {"baseline_low", "baseline_high", "baseline_z"}
    assert rows[0]["baseline_low"] < 2.0 < rows[0]["baseline_high"]


def test_a_run_that_leaves_is_warned_of_once():
    """After OUT_MIN steps outside; the sentence names step, loss, side, z and band."""
    _, warnings = watched([2.0] * 10 + [3.0] * 60)
    ((step, message),) = warnings

    assert step == 10 + OUT_MIN
    assert message.startswith(
        f"step {step}: the smoothed loss 3.0000 has left the baseline's band, above its mean 2.0000"
    )
    assert "z = +3.4" in message
    assert "1.6959 … 2.3041 (95%)" in message


def test_the_rule_looks_back_no_further_than_it_says():
    """Fourteen of the last twenty steps and one before them are not enough, fifteen of the last twenty are."""
    few = [3.0] + [2.0] * (OUT_OF - OUT_MIN + 1) + [3.0] * (OUT_MIN - 1)
    enough = [3.0] + [2.0] * (OUT_OF - OUT_MIN) + [3.0] * (OUT_MIN - 1)

    assert (watched(few)[1], first_left(flat_band(), np.array(few))) == ([], None)
    assert [step for step, _ in watched(enough)[1]] == [OUT_OF] == [first_left(flat_band(), np.array(enough))]


def test_below_the_band_counts_too():
    """A loss that is too good to be true."""
    _, warnings = watched([1.0] * 30)

    assert len(warnings) == 1
    assert "below its mean" in warnings[0][1]


def test_a_second_excursion_is_a_second_warning():
    """Only after the run was back for OUT_OF steps."""
    away, back = [3.0] * OUT_OF, [2.0] * (OUT_OF + 1)

    assert len(watched(away + back + away)[1]) == 2
    assert len(watched(away + back[: OUT_OF // 2] + away)[1]) == 1


def test_leaps_to_both_sides_are_not_one_excursion():
    """Half above and half below is scatter, not a course."""
    assert watched([3.0, 1.0] * 40)[1] == []


def test_beyond_the_baseline_nothing_is_said():
    """The run is longer than the shortest run of the baseline."""
    rows, warnings = watched([3.0] * 30, flat_band(10))

    assert rows[10:] == [{}] * 20
    assert warnings == []


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, math.nan]), min_size=1, max_size=120)
)
def test_a_whole_curve_is_judged_as_its_steps_are(losses):
    """`first_left` finds the step of the first warning for any curve."""
    _, warnings = watched(losses)

    assert first_left(flat_band(len(losses)), np.array(losses)) == (warnings[0][0] if warnings else None)


def test_a_curve_is_read_back(tmp_path):
    """Steps by number, evaluations if there are any, strings of non-finite numbers, a torn end left out."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss_smooth": 5.0}\n{"step": 3, "loss_smooth": "NaN", "val_loss": 4.5}\n'
        '{"step": 4, "loss_smooth": 3.5}\n{"step": 5, "loss_sm'
    )
    curve = read_curve(path)

    assert curve.steps == 4
    assert curve.loss_smooth == pytest.approx([5.0, math.nan, math.nan, 3.5], nan_ok=True)
    assert curve.evaluations == {3: 4.5}
    assert read_curve(tmp_path / "none.jsonl").steps == 0


def test_the_same_draw_twice_is_found():
    """Also if one of them went further; other draws are not."""
    one, other = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0])

    assert first_equal_pair([one, other, one[:2]]) == (0, 2)
    assert first_equal_pair([one, other, np.array([])]) is None
