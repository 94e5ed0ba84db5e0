"""The fingerprint: golden digests that are never edited, and readable differences."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.config.differences import ABSENT
from llmrun.provenance.code import code_preimage, imported_of, is_numeric
from llmrun.provenance.fingerprint import PARTS, Fingerprint, compare, differing_preimages, digest_of

PREIMAGES = {
    "config": {"seed": 42, "optimizer": {"lr": 0.001, "betas": [0.9, 0.95]}, "batch": {"gb_tok": 16384}},
    "data": {"train": "aa" * 32, "val": "bb" * 32, "tokenizer": "cc" * 32, "quarantine": []},
    "code": {"llmrun/train/step.py": "dd" * 32},
    "environment": {"torch": "2.13.0+cpu", "cuda": None, "variables": {"OMP_NUM_THREADS": "1"}},
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def with_change(part, *path_and_value):
    """The preimages with one leaf changed."""
    *path, value = path_and_value
    changed = json.loads(json.dumps(PREIMAGES))
    below = changed[part]
    for name in path[:-1]:
        below = below[name]
    below[path[-1]] = value
    return Fingerprint(changed)


def test_golden():
    """These digests stand in users' checkpoints; a change here breaks every run there is."""
    fingerprint = Fingerprint(PREIMAGES)

    assert fingerprint.parts["config"] == digest_of(PREIMAGES["config"])
    assert fingerprint.parts == GOLDEN_PARTS
    assert fingerprint.digest == GOLDEN_DIGEST


GOLDEN_PARTS = {
    "config": "445234632be261cfddbf65b28f9118bdf862fcd804192e086766ea3cc44bfb98",
    "data": "86b2bc46a3a7e39e732bd14b3e95dc323671ac4a46e26fe721603fb564eeeca5",
    "code": "7de186bcc502635be8781d34c23077a0bfd8ea982fdf9b7804ad13dc7c2901d5",
    "environment": "2fa73f00414f9f4b01825c76a82bf7cb7434d4f1408f809b9f617aaaaaaa6177",
}
GOLDEN_DIGEST = "941ab60874bf022604b8cd8b4b545f3b9e4aa2ba66ff36146760cd2414136508"


@given(st.permutations(list(PREIMAGES["config"])))
def test_the_order_of_keys_does_not_matter(names):
    """A file written by another version in another order has the same fingerprint."""
    config = {name: PREIMAGES["config"][name] for name in names}

    assert Fingerprint({**PREIMAGES, "config": config}).digest == Fingerprint(PREIMAGES).digest


@given(json_values, json_values)
def test_any_other_value_is_another_digest(a, b):
    """Two values have one digest exactly where their canonical JSON is one."""
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)

    assert (digest_of(a) == digest_of(b)) == same


@given(
    st.dictionaries(st.text(min_size=1), json_values, min_size=1),
    st.dictionaries(st.text(min_size=1), json_values),
)
def test_a_difference_is_found_exactly_where_there_is_one(a, b):
    """`compare` is silent for equal preimages only."""
    old, new = Fingerprint({**PREIMAGES, "config": a}), Fingerprint({**PREIMAGES, "config": b})
    equal = digest_of(a) == digest_of(b)

    assert (compare(old, new) == []) == (equal or leafless(a) == leafless(b) == [])
    assert all(change.part == "config" for change in compare(old, new))


def leafless(value):
    """The leaves of nested mappings; two that differ only in empty mappings have no leaf to name."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leafless(inner)]
    return [value]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (with_change("config", "optimizer", "lr", 0.0005), "config: optimizer.lr: 0.001 -> 0.0005"),
        (
            with_change("config", "optimizer", "betas", [0.9, 0.99]),
            "config: optimizer.betas: [0.9,0.95] -> [0.9,0.99]",
        ),
        (with_change("config", "dropout", 0.1), "config: dropout: (absent) -> 0.1"),
        (with_change("data", "train", "ee" * 32), "data: train: aaaaaaaaaaaa… -> eeeeeeeeeeee…"),
        (
            with_change("code", "llmrun/train/step.py", "ee" * 32),
            "code: llmrun/train/step.py: dddddddddddd… -> eeeeeeeeeeee…",
        ),
        (with_change("environment", "torch", "2.14.0"), "environment: torch: 2.13.0+cpu -> 2.14.0"),
        (with_change("environment", "cuda", "13.0"), "environment: cuda: null -> 13.0"),
    ],
)
def test_differences_read_well(changed, line):
    """Part, key, old and new value, as the user reads them."""
    (change,) = compare(Fingerprint(PREIMAGES), changed)

    assert f"{change.part}: {change}" == line
    assert list(differing_preimages(Fingerprint(PREIMAGES), changed)) == [change.part]


def test_an_absent_side_is_no_null():
    """A field that is not there differs from one that is null."""
    (change,) = compare(Fingerprint(PREIMAGES), with_change("config", "grad_clip", None))

    assert change.old is ABSENT
    assert str(change) == "grad_clip: (absent) -> null"


def test_json_round_trip():
    """A stranger can rebuild the fingerprint from run.json."""
    fingerprint = Fingerprint(PREIMAGES)
    document = json.loads(json.dumps(fingerprint.as_json()))

    assert Fingerprint.of_json(document) == fingerprint
    assert list(document["parts"]) == list(PARTS)


@pytest.mark.parametrize(
    ("name", "numeric"),
    [
        ("llmrun/core/step.py", True),
        ("llmrun/core/reduce/tree.py", True),
        ("llmrun/core/model/transformer.py", True),
        ("llmrun/core/streams.py", True),
        ("llmrun/core/lanes.py", True),
        ("llmrun/core/batch.py", True),
        ("llmrun/core/order.py", True),
        ("llmrun/core/tensor_digest.py", True),
        ("my_model/net.py", True),
        ("net.py", True),
        ("llmrun/cli/train.py", False),
        ("llmrun/launch/watch.py", False),
        ("llmrun/data/prepare.py", False),
        ("llmrun/storage/ledger/reader.py", False),
        ("llmrun/errors.py", False),
        ("llmrun/__init__.py", False),
    ],
)
def test_which_files_can_change_bits(name, numeric):
    """`llmrun/core/`, and everything of the user's."""
    assert is_numeric(name) == numeric
    assert (name in code_preimage({name: "0"})) == numeric


def test_imported_files_are_found_below_the_repositorys_root():
    """`src/model/net.py` of the repository is imported as `model/net.py`."""
    assert imported_of(["src/model/net.py", "net.py", "xmodel/net.py"], {"model/net.py": "0"}) == [
        "src/model/net.py"
    ]
