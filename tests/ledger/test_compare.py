"""The first difference: every quantity at any step is found and named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmrun.storage.ledger.compare
from llmrun.storage.ledger.compare import (
    CAUSAL_ORDER,
    common_steps,
    differing_fields,
    differing_steps,
    equal_records,
    first_difference,
)
from llmrun.storage.ledger.explain import INITIALISATION, explain
from llmrun.storage.ledger.record import FLOATS
from llmrun.storage.ledger.writer import LedgerReader, LedgerWriter, cut_back

LAST = 40
FIELDS = [name for name, _ in CAUSAL_ORDER]


def nudged(record, *names):
    """The record with the lowest bit of some fields flipped, if it holds them."""
    changes = {}
    for name in names:
        value = getattr(record, name)
        if value is not None and name in FLOATS:
            changes[name] = float(np.nextafter(value, np.inf))
        elif value is not None:
            changes[name] = value ^ 1
    return replace(record, **changes)


@pytest.fixture
def a(ledgers, tmp_path):
    """A ledger of the steps 0 to 40."""
    return LedgerReader(ledgers.write(tmp_path / "a.bin", LAST))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    step=st.integers(0, LAST), names=st.sets(st.sampled_from(FIELDS), min_size=1), block=st.integers(1, 50)
)
def test_any_change_at_any_step_is_named(ledgers, a, tmp_path_factory, step, names, block):
    """One ulp or one bit: the step, the first quantity in causal order, and all others at that step.

    From the step on everything differs, as it does in a run; how the ledger is cut into blocks is no matter.
    """
    llmrun.storage.ledger.compare._BLOCK_RECORDS = block

    def change(record):
        if record.step < step:
            return record
        return nudged(record, *(names if record.step == step else FIELDS))

    b = LedgerReader(ledgers.write(tmp_path_factory.mktemp("b") / "b.bin", LAST, change))
    try:
        found = first_difference(a, b)
    finally:
        llmrun.storage.ledger.compare._BLOCK_RECORDS = 1 << 16

    held = [name for name in FIELDS if name in names and getattr(ledgers.record_of(step), name) is not None]
    if held:
        assert found.step == step
        assert list(found.fields) == held
        assert found.quantity == dict(CAUSAL_ORDER)[held[0]]
        assert (found.a, found.b) == (a.record(step), b.record(step))
    elif step == LAST:
        assert found is None
    else:
        assert found.step == step + 1


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_the_extent_of_a_difference_is_counted(ledgers, a, tmp_path, monkeypatch, block):
    """Steps whose records differ, the last of them, and how far both files are the same."""
    monkeypatch.setattr(llmrun.storage.ledger.compare, "_BLOCK_RECORDS", block)
    b = LedgerReader(
        ledgers.write(tmp_path / "b.bin", LAST, lambda r: nudged(r, "loss") if r.step in {5, 6, 30} else r)
    )

    assert differing_steps(a, b, range(LAST + 1)) == (3, 30)
    assert differing_steps(a, b, range(7, 30)) == (0, None)
    assert equal_records(a, b) == 5
    assert equal_records(a, a) == LAST + 1
    assert equal_records(a, LedgerReader(cut_back(tmp_path / "b.bin", 2, tmp_path / "tail.bin"))) == 0


def test_equal_ledgers_have_no_difference(ledgers, a, tmp_path):
    """Of different length too, over the steps that both hold."""
    b = LedgerReader(ledgers.write(tmp_path / "b.bin", LAST + 7))

    assert first_difference(a, a) is None
    assert first_difference(a, b) is first_difference(b, a) is None
    assert common_steps(a, b) == range(LAST + 1)


def test_the_signs_of_zeros_differ(ledgers, tmp_path):
    """Floats are compared as bits."""
    a, b = (
        LedgerReader(ledgers.write(tmp_path / name, 5, lambda r, z=zero: replace(r, loss=r.loss and z)))
        for name, zero in (("a.bin", 0.0), ("b.bin", -0.0))
    )

    assert first_difference(a, b).quantity == "loss"


def test_what_one_side_does_not_record_is_not_compared(ledgers, a, tmp_path):
    """Another trainer's ledger may lack the gradients and still differ in the weights."""
    path = tmp_path / "b.bin"
    writer = LedgerWriter.create(path, "other", LAST, quantities={"step", "loss", "weights_digest"})
    for step in range(LAST + 1):
        full = ledgers.record_of(step)
        weights = full.weights_digest + (step >= 17)
        writer.append(replace(type(full)(step), loss=full.loss, weights_digest=weights))
    writer.close()
    found = first_difference(a, LedgerReader(path))

    assert (found.step, found.fields) == (17, ("weights_digest",))


def test_a_tail_is_compared_over_its_own_steps(ledgers, a, tmp_path):
    """It begins at its first step; before that nothing is known."""
    path = ledgers.write(tmp_path / "b.bin", LAST, lambda r: nudged(r, "loss") if r.step >= 30 else r)
    tail = LedgerReader(cut_back(path, 24, tmp_path / "tail.bin"))

    assert common_steps(a, tail) == range(25, LAST + 1)
    assert first_difference(a, tail).step == first_difference(tail, a).step == 30
    assert first_difference(a, tail, range(25, 30)) is None
    assert common_steps(LedgerReader(path), tail) == range(25, 25)
    assert first_difference(LedgerReader(path), tail) is None


def test_two_records_are_compared_alone(ledgers):
    """As the audit does it."""
    record = ledgers.record_of(10)

    assert differing_fields(record, record) == ()
    assert differing_fields(record, nudged(record, "weights_digest", "loss")) == ("loss", "weights_digest")
    assert differing_fields(record, replace(nudged(record, "loss"), weights_digest=None)) == ("loss",)


@pytest.mark.parametrize(
    ("step", "names", "named"),
    [
        (0, ["weights_digest"], [INITIALISATION]),
        (12, ["tokens_digest", "loss"], ["data differ", "step 12", "samples"]),
        (12, ["tokens"], ["number of tokens", "step 12"]),
        (12, ["loss", "gradients_digest"], ["same data and weights", "loss differs", "dropout"]),
        (12, ["loss"], ["loss alone differs", "step 12", "micro-batches"]),
        (12, ["gradients_digest", "weights_digest"], ["same data and weights", "gradients differ", "kernel"]),
        (12, ["grad_norm"], ["same gradients", "norm"]),
        (
            12,
            ["learning_rate"],
            ["same gradients", "7.692307692307693e-05 in A", "7.692307692307694e-05 in B", "schedule"],
        ),
        (20, ["optimizer_digest"], ["same gradients and learning rate", "step 20", "optimizer's state"]),
        (12, ["weights_digest"], ["same gradients and learning rate", "weights differ", "weight_decay"]),
    ],
)
def test_a_difference_is_explained(ledgers, a, tmp_path, step, names, named):
    """The explanation names what was still equal when the first quantity differed, and the likely cause."""
    b = ledgers.write(tmp_path / "b.bin", LAST, lambda r: nudged(r, *names) if r.step == step else r)
    explanation = str(explain(first_difference(a, LedgerReader(b))))

    assert [part for part in named if part not in explanation] == []
