"""How far two saved states lie apart."""

import numpy as np
import pytest

from llmrun.verify.compare_runs import verify_runs


def distances(runs, act):
    """What verify says of two runs whose checkpoints of step 10 differ as `act` makes them."""
    a = runs.make("a", checkpoints=(10,))
    b = runs.make("b", checkpoints=(10,), alter=lambda state: act(state) if state.step == 10 else None)
    return verify_runs(a, b)


def test_the_largest_distances_are_told(runs):
    """Elements, absolute, relative, ulps; a change of sign counts the floats between."""

    def act(state):
        norm = state.weights["norm.weight"]
        norm[:] = [1.0, 2.0, 0.0, 4.0]

    a = runs.make("one", checkpoints=(10,), alter=lambda s: act(s) if s.step == 10 else None)

    def shifted(state):
        act(state)
        norm = state.weights["norm.weight"]
        norm[0] = np.nextafter(np.float32(1), np.float32(2))
        norm[2] = np.float32(-0.0)
        norm[3] = 3.0

    b = runs.make("two", checkpoints=(10,), alter=lambda s: shifted(s) if s.step == 10 else None)
    (row,) = verify_runs(a, b).as_json()["tensor_distances"]

    assert row == {
        "tensor": "norm.weight",
        "step": 10,
        "elements": 4,
        "differing": 3,
        "absolute": 1.0,
        "relative": 0.25,
        "ulps": 2**22,
    }


@pytest.mark.parametrize(("value", "absolute"), [(np.inf, "inf"), (np.nan, 0.0)])
def test_what_is_not_finite_is_still_json(runs, value, absolute):
    """An infinite distance is a string, as everywhere; one of NaN is not measured, but counted."""

    def act(state):
        state.weights["norm.weight"][1] = value

    (row,) = distances(runs, act).as_json()["tensor_distances"]

    assert (row["differing"], row["absolute"]) == (1, absolute)


def test_weights_come_before_moments(runs):
    """Only what differs is there."""

    def act(state):
        runs.flip(state.optimizer["embed.weight.exp_avg"])
        runs.flip(state.weights["norm.weight"])

    assert [d.tensor for d in distances(runs, act).tensor_distances] == [
        "norm.weight",
        "embed.weight.exp_avg",
    ]
