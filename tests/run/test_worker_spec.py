"""Worker specs and outcomes are read back from their files as they were written."""

import json

import pytest

from llmrun.errors import InputError, RunFailedError, error_of
from llmrun.run.worker_spec import Outcome, WorkerSpec

SPEC = WorkerSpec(
    segment=2,
    D=3,
    from_step=40,
    checkpoint="step-00000040",
    until_step=100,
    fingerprint="ab" * 32,
    parts={"config": "cd" * 32},
    config={"name": "demo", "batch": {"μ_tok": 256}, "optimizer": {"lr": 1e-3}},
    audit_tails=["ledger-tail-002.bin"],
    reference_ledger=None,
    data_path="/data/demo",
)


def test_a_worker_spec_round_trip(tmp_path):
    """What a launcher writes is what a worker reads."""
    SPEC.write(tmp_path / "orders.json")

    assert WorkerSpec.read(tmp_path / "orders.json") == SPEC


def test_a_worker_spec_keep_the_users_symbols_readable(tmp_path):
    """A person who opens the file sees μ_tok, not an escape."""
    SPEC.write(tmp_path / "orders.json")

    assert "μ_tok" in (tmp_path / "orders.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["finished", "reached", "preempted"])
def test_outcome_round_trip(tmp_path, kind):
    """An outcome without an error is read back equal, warnings as a tuple."""
    outcome = Outcome(
        1, kind, 40, proven_steps=7, checkpoint="step-00000040", warnings=("one", "two"), loop_s=1.5
    )
    outcome.write(tmp_path / "outcome.json")

    assert Outcome.read(tmp_path / "outcome.json") == outcome


def test_outcome_carries_an_error_by_class(tmp_path):
    """A worker's error reaches the launcher with its class, its words and its hints."""
    error = RunFailedError("loss is NaN at step 12", where="micro-batch 3", caused_by=["a"], hints=["b"])
    Outcome(0, "failed", 11, error.as_json()).write(tmp_path / "outcome.json")

    back = error_of(Outcome.read(tmp_path / "outcome.json").error)

    assert type(back) is RunFailedError
    assert back.as_json() == error.as_json()
    assert type(error_of(InputError("x").as_json())) is InputError


def test_a_file_of_another_format_is_not_taken(tmp_path):
    """A worker spec is not read as an outcome."""
    SPEC.write(tmp_path / "orders.json")

    with pytest.raises(AssertionError, match="llmrun-orders/1"):
        Outcome.read(tmp_path / "orders.json")


def test_a_whole_file_or_none(tmp_path):
    """Nothing but the file under its own name is left behind."""
    Outcome(0, "finished", 1).write(tmp_path / "outcome.json")

    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
    assert json.loads((tmp_path / "outcome.json").read_text())["format"] == "llmrun-outcome/1"


def test_renamed_fields_keep_their_keys_on_disk(tmp_path):
    """orders.json says `twin_ledger` and an outcome `remarks`, as earlier versions wrote and read them."""
    SPEC.write(tmp_path / "orders.json")
    Outcome(0, "finished", 1, warnings=("slow disk",)).write(tmp_path / "outcome.json")

    assert "twin_ledger" in json.loads((tmp_path / "orders.json").read_text())
    assert json.loads((tmp_path / "outcome.json").read_text())["remarks"] == ["slow disk"]
