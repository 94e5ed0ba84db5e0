"""`verify_runs` on runs made by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.core.combined_digest import TensorDigest
from llmrun.errors import InputError, NothingComparedError
from llmrun.storage.ledger.explain import INITIALISATION
from llmrun.storage.ledger.tensors import write_tensors
from llmrun.storage.ledger.writer import cut_back
from llmrun.verify.compare_runs import verify_runs

GUESS = "another order of samples, or other tokens"
EQUAL_FINGERPRINTS = "the fingerprints are equal, so config, data, code and environment are not the cause"


def test_equal_runs_are_equal(runs):
    """Ledger, chain, checkpoints, fingerprint: all were looked at."""
    a, b = runs.make("a"), runs.make("b")
    verdict = verify_runs(a, b)

    assert verdict.equal
    assert (verdict.steps_compared, verdict.complete, verdict.last_step) == (24, True, 24)
    assert verdict.checkpoints == (10, 20)
    assert verdict.tensors_compared == 2 * 9
    assert verdict.fingerprints.equal
    assert len(verdict.chain) == 64
    assert verdict.damage == verdict.notes == ()
    assert verify_runs(a, b, strict=True).equal
    assert verify_runs(a, a).equal


def test_runs_of_different_length_are_compared_over_what_both_have(runs):
    """`--strict` demands the same length."""
    a, b = runs.make("a"), runs.make("b", last_step=31, checkpoints=(10, 30))
    verdict = verify_runs(a, b)
    strict = verify_runs(b, a, strict=True)

    assert verdict.equal
    assert (verdict.steps_compared, verdict.complete) == (24, False)
    assert verdict.checkpoints == (10,)
    assert (strict.equal, strict.finding.step, strict.finding.quantity) == (False, 25, None)
    assert strict.finding.diagnosis == (
        "the bits are equal up to step 24, but not both end there: A at step 31, B at step 24"
    )


def test_equal_bits_under_other_fingerprints_are_equal(runs):
    """The difference is said with key, old and new; `--strict` demands the same fingerprint."""
    a = runs.make("a")
    b = runs.make(
        "b", preimages={"config": {"seed": 42, "optimizer": {"lr": 0.002}}, "data": {"train": "ab"}}
    )
    verdict = verify_runs(a, b)
    strict = verify_runs(a, b, strict=True)
    document = verdict.as_json()

    assert verdict.equal
    assert document["fingerprints_equal"] is False
    assert document["fingerprint_parts"] == ["config", "data"]
    assert document["fingerprint_changes"] == [
        {"part": "config", "key": "optimizer.lr", "a": 0.001, "b": 0.002},
        {"part": "data", "key": "train", "a": "aa", "b": "ab"},
    ]
    assert (strict.equal, strict.finding.step, strict.finding.quantity) == (False, None, "config")
    assert strict.finding.diagnosis == (
        "the bits are equal, but the fingerprints differ in config and data (optimizer.lr: 0.001 -> 0.002, train: aa -> ab)"
    )


def test_a_fingerprint_that_changed_on_the_way_is_seen(runs):
    """A resume that allowed a change makes a run of two fingerprints."""
    changed = {"code": {"llmrun/core/step.py": "cc"}}
    a, b, c = runs.make("a"), runs.make("b", later=(12, changed)), runs.make("c", later=(13, changed))

    assert verify_runs(b, b).fingerprints.equal
    assert [str(change) for change in verify_runs(a, b).fingerprints.changes] == [
        "llmrun/core/step.py: bb -> cc"
    ]
    assert verify_runs(b, c).fingerprints.equal is False
    assert verify_runs(b, c).fingerprints.parts == ()
    assert verify_runs(a, runs.make("d", later=(12, {}))).fingerprints.equal
    anew = verify_runs(a, runs.make("e", later=(0, changed)))
    assert [span.from_step for span in anew.fingerprints.b] == [0]
    assert anew.fingerprints.parts == ("code",)


def test_other_initial_weights_differ_before_the_first_step(runs):
    """The tensors are named from the digests that are kept at step 0."""
    a = runs.make("a")
    b = runs.make("b", alter=lambda state: runs.flip(state.weights["norm.weight"]))
    finding = verify_runs(a, b).finding

    assert (finding.step, finding.quantity) == (0, "weights")
    assert (finding.tensors, finding.tensors_step) == (("norm.weight",), 0)
    assert finding.diagnosis == f"{INITIALISATION} in norm.weight; {EQUAL_FINGERPRINTS}"
    assert finding.module == "norm.weight"


@pytest.mark.parametrize(
    ("field", "quantity"),
    [
        ("tokens_digest", "data"),
        ("tokens", "data"),
        ("loss", "loss"),
        ("gradients_digest", "gradients"),
        ("grad_norm", "grad_norm"),
        ("learning_rate", "optimizer"),
        ("weights_digest", "weights"),
    ],
)
@pytest.mark.parametrize("step", [1, 10, 24])
def test_any_quantity_of_a_step_is_named(runs, field, quantity, step):
    """With its step, in JSON too."""

    def change(record):
        value = getattr(record, field)
        return replace(record, **{field: value + 1}) if record.step == step else record

    a, b = runs.make("a", checkpoints=()), runs.make("b", change=change, checkpoints=())
    document = verify_runs(a, b).as_json()

    assert (document["equal"], document["first_step"], document["quantity"]) == (False, step, quantity)
    assert document["quantities"] == [quantity]
    assert document["chain"] is None
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize(
    ("preimages", "message"),
    [
        (
            {},
            f"data order differs from step 3 although dataset and seed are equal: {GUESS}; {EQUAL_FINGERPRINTS}",
        ),
        (
            {"environment": {"torch": "2.12.0"}},
            (
                "data order differs from step 3 although dataset and seed are equal; "
                "the fingerprints differ in environment (torch: 2.13.0 -> 2.12.0)"
            ),
        ),
        (
            {"config": {"seed": 43, "optimizer": {"lr": 0.001}}},
            "data differ from step 3 on; the fingerprints differ in config (seed: 42 -> 43)",
        ),
        (
            {"data": {"train": "ab"}},
            "data differ from step 3 on; the fingerprints differ in data (train: aa -> ab)",
        ),
    ],
)
def test_other_data_are_told_by_what_is_equal(runs, preimages, message):
    """An order that nothing explains is another case than another seed or dataset."""
    a = runs.make("a", checkpoints=())
    b = runs.make(
        "b",
        checkpoints=(),
        preimages=preimages,
        change=lambda r: r if r.step < 3 else replace(r, tokens_digest=r.tokens_digest + 1),
    )

    assert verify_runs(a, b).finding.diagnosis == message


def test_the_tensors_are_named_at_the_differing_step(runs):
    """Where the digests of that step were kept, those of the differing quantity."""
    for name, alter in {
        "a": lambda _: None,
        "b": runs.from_step(
            100,
            lambda state: (
                runs.flip(state.gradients["norm.weight"]),
                runs.flip(state.weights["embed.weight"]),
            ),
        ),
    }.items():
        runs.make(name, last_step=100, alter=alter, checkpoints=())
    finding = verify_runs(runs.path("a"), runs.path("b")).finding

    assert (finding.step, finding.quantity) == (100, "gradients")
    assert (finding.tensors, finding.tensors_step) == (("norm.weight",), 100)


def test_the_tensors_are_named_at_the_next_step_that_was_kept(runs):
    """A checkpoint of both counts too."""
    alter = runs.from_step(15, lambda state: runs.flip(state.weights["layers.0.up.weight"]))
    finding = verify_runs(runs.make("a"), runs.make("b", alter=alter)).finding

    assert (finding.step, finding.quantity) == (15, "weights")
    assert (finding.tensors, finding.tensors_step) == (("layers.0.up.weight",), 20)


def test_the_growth_of_the_difference_is_told(runs):
    """Of loss and gradient norm, from the first different step on."""

    def change(record):
        return record if record.step < 4 else replace(record, loss=record.loss + 2.0 ** (record.step - 40))

    verdict = verify_runs(runs.make("a"), runs.make("b", change=change))
    rows = verdict.as_json()["distances"]

    assert list(rows) == ["loss"]
    assert [row["step"] for row in rows["loss"]] == [4, 5, 14, 24]
    assert [row["absolute"] for row in rows["loss"]] == [2.0**-36, 2.0**-35, 2.0**-26, 2.0**-16]
    assert verdict.checkpoints == ()


def test_checkpoints_are_compared_tensor_by_tensor(runs):
    """A state that is not in the ledger's cadence: moments at a step without their digest, random states."""
    a = runs.make("a", checkpoints=(15,))
    b = runs.make(
        "b",
        checkpoints=(15,),
        alter=lambda s: runs.flip(s.optimizer["norm.weight.exp_avg"]) if s.step == 15 else 0,
    )
    c = runs.make("c", checkpoints=(15,), alter=lambda s: s.rng.update(torch=s.rng["torch"] + 1))
    moments, rng = verify_runs(a, b).finding, verify_runs(a, c).finding

    assert (moments.step, moments.quantity, moments.tensors) == (15, "optimizer", ("norm.weight.exp_avg",))
    assert (rng.step, rng.quantity, rng.tensors) == (15, "rng", ("torch",))
    d = runs.make("d", checkpoints=(15,), alter=lambda s: s.rng.pop("numpy"))
    assert verify_runs(a, d).finding.tensors == verify_runs(d, a).finding.tensors == ("numpy",)
    assert rng.diagnosis == f"the states saved at step 15 differ in 1 tensor of rng; {EQUAL_FINGERPRINTS}"


def test_a_saved_state_may_differ_before_the_ledgers_do(runs):
    """The ledgers say nothing of random states: the checkpoint is the first difference then."""

    def alter(state):
        if state.step >= 10:
            state.rng["torch"] += 1
        if state.step >= 15:
            runs.flip(state.weights["norm.weight"])

    verdict = verify_runs(runs.make("a"), runs.make("b", alter=alter))

    assert (verdict.finding.step, verdict.finding.quantity) == (10, "rng")
    assert verdict.checkpoints == ()


def test_digests_of_a_state_that_was_cut_off_are_passed_over(runs):
    """What lies in `ledger-tensors/` beyond the ledger, or is not what the ledger recorded, names nothing."""
    alter = runs.from_step(15, lambda state: runs.flip(state.weights["layers.0.up.weight"]))
    a, b = runs.make("a", checkpoints=()), runs.make("b", alter=alter, checkpoints=())
    other = {"weights": {"stale": TensorDigest("F32", (1,), 1)}}
    for step in (20, 30):
        write_tensors(a / "ledger-tensors", step, other)
        write_tensors(b / "ledger-tensors", step, {"weights": {"stale": TensorDigest("F32", (1,), 2)}})
    finding = verify_runs(a, b).finding

    assert (finding.step, finding.tensors, finding.tensors_step) == (15, (), None)


def test_ledgers_alone_are_compared(runs):
    """Files without a run around them; their fingerprints are not known, so `--strict` cannot be met."""
    a, b = runs.make("a"), runs.make("b")
    verdict = verify_runs(a / "ledger.bin", b / "ledger.bin")
    strict = verify_runs(a / "ledger.bin", b, strict=True)

    assert (verdict.equal, verdict.steps_compared, verdict.fingerprints.equal) == (True, 24, None)
    assert strict.finding.diagnosis == "the bits are equal, but the fingerprints are unknown"


def test_a_tail_is_compared_with_the_run_it_was_cut_from(runs):
    """Over its own steps."""
    a, b = runs.make("a"), runs.make("b", checkpoints=(10,))
    tail = cut_back(b / "ledger.bin", 18, Path("tail.bin"))
    verdict = verify_runs(a, tail)

    assert (verdict.equal, verdict.steps_compared, verdict.last_step) == (True, 6, 24)
    with pytest.raises(NothingComparedError, match="A holds steps 0 to 18, B holds steps 19 to 24"):
        verify_runs(b, tail)


@pytest.mark.parametrize(
    "make", [lambda _: None, lambda path: path.mkdir(), lambda path: path.write_text("hello")]
)
def test_what_is_neither_is_bad_input(runs, make):
    """Exit 2, the path is named, with what can be given."""
    a = runs.make("a")
    make(Path("x"))
    with pytest.raises(InputError, match=r"\bx\b") as caught:
        verify_runs(a, Path("x"))

    assert len(caught.value.hints) == 1


def test_a_run_without_a_ledger_is_bad_input(runs):
    """No step of it was recorded."""
    a, b = runs.make("a"), runs.make("b")
    (b / "ledger.bin").unlink()
    with pytest.raises(InputError, match="runs/b has no ledger"):
        verify_runs(a, b)
