"""`llmrun verify` never says "equal" if nothing that tells bits was compared: exit 5, `equal: null`."""

import json
from pathlib import Path

import pytest

from llmrun.cli.app import run
from llmrun.storage.ledger.writer import cut_back

DATA_ONLY = ("tokens", "learning_rate", "tokens_digest")


@pytest.fixture
def verdict(capsys):
    """`llmrun verify A B --json`: exit code and the document, that of the error if there is no verdict."""

    def call(*arguments):
        code = run(["verify", *map(str, arguments), "--json"], as_json=True)
        captured = capsys.readouterr()
        return code, json.loads(captured.out or captured.err)

    return call


@pytest.mark.parametrize(("kept", "quantities"), [((), []), (DATA_ONLY, ["data"])])
@pytest.mark.parametrize("place", ["", "ledger.bin"])
def test_ledgers_that_record_no_result_are_not_equal(runs, verdict, kept, quantities, place):
    """Steps, tokens and rates are prescribed by the config: they prove nothing, whatever is compared."""
    a, b = (runs.make(name, checkpoints=(), records=kept) for name in "ab")
    code, document = verdict(a / place, b / place)
    strict, _ = verdict(a / place, b / place, "--strict")

    assert (code, strict) == (5, 5)
    assert (document["equal"], document["steps_compared"]) == (None, 0)
    assert document["quantities_compared"] == quantities
    assert document["diagnosis"] is None


def test_runs_with_no_finished_step_in_common_are_not_equal(runs, verdict):
    """The same initial weights are no equal runs; other ones are different all the same."""
    a, b = runs.make("a", last_step=0, checkpoints=()), runs.make("b")
    c = runs.make("c", alter=lambda state: runs.flip(state.weights["norm.weight"]))
    code, document = verdict(a, b)

    assert (code, document["equal"], document["steps_compared"]) == (5, None, 0)
    assert verdict(a, c)[0] == 1


def test_a_ledger_and_the_tail_behind_its_end_have_nothing_in_common(runs, verdict):
    """Not an error of the input: the answer is that nothing was compared."""
    a = runs.make("a", checkpoints=())
    tail = cut_back(a / "ledger.bin", 10, Path("tail.bin"))
    code, document = verdict(a, tail)

    assert (code, document["equal"], document["exit_code"]) == (5, None, 5)


def test_checkpoints_of_different_steps_have_nothing_in_common(runs, verdict):
    """Nor a checkpoint and a ledger that does not reach it."""
    a, b = runs.make("a"), runs.make("b", last_step=14, checkpoints=())
    ten, twenty = (a / "checkpoints" / f"step-000000{step}" for step in (10, 20))

    assert verdict(ten, twenty)[0] == verdict(twenty, b)[0] == 5
    assert verdict(ten, ten)[1]["quantities_compared"] == ["optimizer", "weights", "rng"]


def test_a_checkpoint_and_a_ledger_without_its_weights_have_nothing_in_common(runs, verdict):
    """Equal chains say that the ledger is the checkpoint's own, not what the weights are."""
    a = runs.make("a", records=("loss", "tokens"))
    code, document = verdict(a / "checkpoints" / "step-00000010")

    assert (code, document["equal"]) == (5, None)


def test_what_was_compared_is_said(runs, verdict, capsys):
    """Equal losses alone are equal losses; equal checkpoints count also if the ledgers tell nothing."""
    a, b = (runs.make(name, checkpoints=(), records=("loss",)) for name in "ab")
    c, d = (runs.make(name, records=()) for name in "cd")
    code, document = verdict(a, b)

    assert (code, document["equal"], document["steps_compared"]) == (0, True, 24)
    assert document["quantities_compared"] == ["loss"]
    assert verdict(c, d)[1]["quantities_compared"] == ["optimizer", "weights", "rng"]
    assert run(["verify", str(a), str(b)], as_json=False) == 0
    assert "no weights were compared" in capsys.readouterr().out
