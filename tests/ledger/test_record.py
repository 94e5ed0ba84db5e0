"""Records as bytes, against a second implementation."""

import hashlib
import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.storage.ledger.record import (
    FLOATS,
    QUANTITIES,
    RECORD_BYTES,
    RECORD_DTYPE,
    LedgerRecord,
    optimizer_due,
    quantities_due,
    tensors_due,
)

GOLDEN_CHAIN = "6c5e46c7984471e8a24575af532b8ada9947d937ed1e74f843c1ea9f75a726ac"
"""The chain after step 3 of the ledger below; a format that changes it has another name."""

word = st.integers(0, 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
records = st.builds(
    LedgerRecord,
    step=word,
    tokens=st.none() | word,
    loss=st.none() | finite,
    grad_norm=st.none() | finite,
    learning_rate=st.none() | finite,
    tokens_digest=st.none() | word,
    gradients_digest=st.none() | word,
    weights_digest=st.none() | word,
    optimizer_digest=st.none() | word,
    chain=st.binary(min_size=32, max_size=32),
)


@given(records)
def test_any_record_survives_the_way_through_bytes(record):
    """Every value comes back with its bits, what is absent comes back as None."""
    again = LedgerRecord.from_bytes(record.body() + record.chain)

    assert again == record
    assert [math.copysign(1, getattr(again, n) or 1.0) for n in FLOATS] == [
        math.copysign(1, getattr(record, n) or 1.0) for n in FLOATS
    ]


def test_negative_zero_keeps_its_sign():
    """-0.0 and 0.0 are different bits."""
    body = LedgerRecord(1, loss=-0.0).body()

    assert body[16:24] == struct.pack("<d", -0.0)
    assert body[16:24] != LedgerRecord(1, loss=0.0).body()[16:24]


@given(records)
def test_numpy_and_struct_agree_on_the_layout(record):
    """The structured dtype reads the same fields at the same places."""
    (row,) = np.frombuffer(record.body() + record.chain, RECORD_DTYPE)

    for name in QUANTITIES:
        value = getattr(record, name)
        assert row[name] == (0 if value is None else value)
    assert RECORD_DTYPE.itemsize == RECORD_BYTES == 112


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_what_is_not_finite_is_never_recorded(name, value):
    """Such a step stops the run before it is recorded."""
    with pytest.raises(ValueError, match=f"{name} of step 7 must be finite, got {value}"):
        LedgerRecord(7, **{name: value}).body()


def test_the_cadence_is_that_of_the_format():
    """Weights at step 0, all but the optimizer state at each step, that one at every 10th."""
    assert quantities_due(0) == {"step", "weights_digest"}
    assert quantities_due(1) == set(QUANTITIES) - {"optimizer_digest"}
    assert quantities_due(10) == set(QUANTITIES)
    assert [step for step in range(31) if optimizer_due(step)] == [10, 20, 30]
    assert [step for step in range(301) if tensors_due(step)] == [0, 100, 200, 300]


def test_a_small_ledger_has_the_golden_bytes(ledgers, tmp_path):
    """Header, records and chain of four steps, made a second time with struct and hashlib alone."""
    raw = ledgers.write(tmp_path / "ledger.bin", 3).read_bytes()

    fields = {
        "format": "llmrun-ledger/1",
        "producer": "test",
        "header_bytes": 4096,
        "record_bytes": 112,
        "first_step": 0,
        "chain_before": "",
        "quantities": [
            "step",
            "tokens",
            "loss",
            "grad_norm",
            "learning_rate",
            "tokens_digest",
            "gradients_digest",
            "weights_digest",
            "optimizer_digest",
        ],
    }
    header = b"llmrun-ledger/1\n" + json.dumps(fields).encode()
    expected = header + b" " * (4095 - len(header)) + b"\n"
    before = b"llmrun-ledger/1"
    for step in range(4):
        if step == 0:
            body = struct.pack("<7Q", 0, 0, 0, 0, 0, 0, 0) + struct.pack("<3Q", 2**64 - 10_000, 0, 0b10000001)
        else:
            floats = struct.pack("<3d", 6.0 / (1 + step), 1.5 + step, 1e-3 / (1 + step))
            digests = struct.pack("<4Q", 2**63 + 11 * step, 13 * step + 1, 17 * step + 2**64 - 10_000, 0)
            body = struct.pack("<2Q", step, 1024 * step) + floats + digests + struct.pack("<Q", 0b11111111)
        before = hashlib.sha256(before + body).digest()
        expected += body + before

    assert raw == expected
    assert before.hex() == GOLDEN_CHAIN
