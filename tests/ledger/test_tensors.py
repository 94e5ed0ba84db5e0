"""Digests of single tensors, and one digest of many."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.errors import DamagedError
from llmrun.storage.ledger.tensors import (
    differing_tensors,
    read_tensors,
    steps_kept,
    tensors_file,
    write_tensors,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text(encoding="utf-8"))
GROUPS = {
    "weights": {
        "model.norm.weight": TensorDigest("F32", (256,), 0xFF),
        "model.embed_tokens.weight": TensorDigest("F32", (64, 256), 0x0123456789ABCDEF),
    },
    "gradients": {"scale": TensorDigest("F32", (), 2**64 - 1)},
}


def test_the_combined_digest_is_that_of_the_test_vector():
    """Lines sorted by name, first 8 bytes of their sha256, written in byte order."""
    assert f"{combine_digests(GROUPS['weights']):016x}" == VECTORS["combined"]["digest"]


entries = st.builds(
    TensorDigest, st.sampled_from(["F32", "BF16"]), st.tuples(st.integers(1, 9)), st.integers(0, 2**64 - 1)
)
names = st.text(st.characters(categories=["L", "N"], include_characters="._"), min_size=1, max_size=12)


@given(st.dictionaries(names, entries, min_size=2), st.data())
def test_any_two_tensors_swapped_are_seen(group, data):
    """The order in which tensors are given is no matter, which name holds which bytes is."""
    first, second = data.draw(st.permutations(sorted(group)))[:2]
    swapped = {**group, first: group[second], second: group[first]}

    assert combine_digests(dict(reversed(group.items()))) == combine_digests(group)
    assert (combine_digests(swapped) == combine_digests(group)) == (group[first] == group[second])


def test_the_digests_of_a_step_are_kept_and_read(tmp_path):
    """As readable JSON, one file per step, replaced as a whole."""
    directory = tmp_path / "ledger-tensors"
    write_tensors(directory, 100, {"weights": {}})
    path = write_tensors(directory, 100, GROUPS)
    write_tensors(directory, 0, {"weights": GROUPS["weights"]})

    assert path == tensors_file(directory, 100)
    assert path.name == "step-00000100.json"
    assert read_tensors(directory, 100) == GROUPS
    assert read_tensors(directory, 200) is None
    assert steps_kept(directory) == [0, 100]
    assert steps_kept(tmp_path / "absent") == []
    assert json.loads(path.read_text())["gradients"] == {
        "scale": {"dtype": "F32", "shape": [], "digest": "ffffffffffffffff"}
    }


def test_only_what_a_ledger_digests_is_kept(tmp_path):
    """Another quantity is an error of the caller."""
    with pytest.raises(ValueError, match="loss"):
        write_tensors(tmp_path, 100, {"loss": {}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "llmrun-ledger-tensors/1", "step": 5}',
        '{"format": "llmrun-ledger-tensors/1", "step": 100, "weights": {"a": {}}}',
        '{"format": "llmrun-ledger-tensors/1", "step": 100, "weights": {"a": 3}}',
        '{"format": "llmrun-ledger-tensors/1", "step": 100, "weights": []}',
        (
            '{"format": "llmrun-ledger-tensors/1", "step": 100, "weights": '
            '{"a": {"dtype": "F32", "shape": [1], "digest": "xyz"}}}'
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    """Whatever stands in it."""
    tensors_file(tmp_path, 100).write_text(content)
    with pytest.raises(DamagedError, match=r"step-00000100\.json is damaged"):
        read_tensors(tmp_path, 100)


def test_differing_tensors_are_named_in_order():
    """Other bytes, another shape, present in one only."""
    one = TensorDigest("F32", (2,), 1)
    a = {"w": one, "z": one, "m": one, "k": one}
    b = {"w": one, "z": TensorDigest("F32", (2,), 2), "m": TensorDigest("F32", (1, 2), 1), "new": one}

    assert differing_tensors(a, b) == ["z", "m", "k", "new"]
    assert differing_tensors(a, a) == []
