"""`dataset.json`: read strictly, every complaint names the file and the field."""

import dataclasses
import json
import os

import pytest

from llmrun.data.manifest import (
    dtype_for,
    facts,
    fingerprint_of,
    read_manifest,
    recorded_of,
    write_manifest,
)
from llmrun.data.prepare import prepare
from llmrun.errors import InputError


def edited(dataset, change):
    """Apply a change to the object of dataset.json."""
    path = dataset / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put(*keys_and_value):
    """A change that sets one field."""
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def drop(*keys):
    """A change that removes one field."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


TRAIN = ("splits", "train")
SHARD = ("splits", "train", "shards", 0)
BAD_FIELDS = [
    (put("format", "llmrun-dataset/2"), 'dataset.json has the format "llmrun-dataset/2"; this llmrun reads "llmrun-dataset/1"'),
    (drop("format"), "format is missing"),
    (put("colour", 1), "colour is unknown; known are format, dtype, tokenizer, splits, recipe"),
    (put("dtype", "float32"), 'dtype must be one of uint16, uint32, not "float32"'),
    (put("tokenizer", None), "tokenizer must be an object, not null"),
    (put("tokenizer", "vocab_size", 0), "tokenizer.vocab_size must lie in 1 … 65,536, not 0"),
    (put("tokenizer", "vocab_size", 70000), "tokenizer.vocab_size must lie in 1 … 65,536, not 70,000"),
    (put("tokenizer", "vocab_size", "257"), 'tokenizer.vocab_size must be a whole number, not "257"'),
    (put("tokenizer", "eot_id", 257), "tokenizer.eot_id must lie in 0 … 256, not 257"),
    (put("tokenizer", "kind", "words"), 'tokenizer.kind must be one of byte, bpe, file, not "words"'),
    (put("tokenizer", "sha256", "00"), 'tokenizer.sha256 must be 64 lower-case hex digits, not "00"'),
    (drop("splits", "val"), "splits.val is missing"),
    (put("splits", "test", {}), "splits.test is unknown; known are train, val"),
    (put(*TRAIN, "documents", -1), "splits.train.documents must lie in 0 … 9,223,372,036,854,775,807, not -1"),
    (put(*TRAIN, "documents", True), "splits.train.documents must be a whole number, not true"),
    (put(*TRAIN, "bytes_of_text", 1.5), "splits.train.bytes_of_text must be a whole number, not 1.5"),
    (put(*TRAIN, "tokens", 5), "splits.train.tokens is 5, but the tokens of its shards are 34,591"),
    (put(*TRAIN, "shards", {}), "splits.train.shards must be a list, not {}"),
    (put(*TRAIN, "shards", [7]), "splits.train.shards[0] must be an object, not 7"),
    (drop(*SHARD, "sha256"), "splits.train.shards[0].sha256 is missing"),
    (put(*SHARD, "tokens", 0), "splits.train.shards[0].tokens must lie in 1 … 9,223,372,036,854,775,807, not 0"),
    (put(*SHARD, "bytes", 7), "splits.train.shards[0].bytes is 7, but tokens times 2 bytes are 20,000"),
    (put(*SHARD, "name", "../train.bin"), 'splits.train.shards[0].name must be a plain file name, not "../train.bin"'),
    (put(*SHARD, "name", "/etc/passwd"), 'splits.train.shards[0].name must be a plain file name, not "/etc/passwd"'),
    (put(*SHARD, "name", ".."), 'splits.train.shards[0].name must be a plain file name, not ".."'),
    (put(*SHARD, "name", "a\0b"), 'splits.train.shards[0].name must be a plain file name, not "a\\u0000b"'),
    (put(*SHARD, "name", "val-00000.bin"), "splits names the file val-00000.bin twice"),
    (put(*SHARD, "name", "dataset.json"), "splits names the file dataset.json twice"),
    (put("recipe", []), "recipe must be an object, not []"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_FIELDS, ids=[message[:50] for _, message in BAD_FIELDS])
def test_bad_field(dataset, change, message):
    """Every wrong field is refused by its name, with the file it stands in."""
    edited(dataset, change)

    with pytest.raises(InputError) as refused:
        read_manifest(dataset)

    assert refused.value.message == message
    assert refused.value.where == str(dataset / "dataset.json")


BAD_FILES = [
    (b"", "dataset.json is not JSON: Expecting value"),
    (b'{"format": ', "dataset.json is not JSON: Expecting value"),
    (b"\xff\xfe", "dataset.json is not UTF-8 at byte 0"),
    (b"[1]", "dataset.json must hold one JSON object"),
    (b'{"a": NaN}', "dataset.json is not sound JSON: NaN is not a number"),
    (b'{"a": 1e999}', "dataset.json is not sound JSON: 1e999 is too large"),
    (b'{"a": 1, "a": 2}', 'dataset.json is not sound JSON: the name "a" comes twice'),
    (b"[" * 200_000, "dataset.json is nested too deeply"),
    (b"{}", "format is missing"),
]


@pytest.mark.parametrize(
    ("content", "message"), BAD_FILES, ids=[str(content[:20]) for content, _ in BAD_FILES]
)
def test_bad_file(dataset, content, message):
    """A file that is no JSON object is refused in words."""
    (dataset / "dataset.json").write_bytes(content)

    with pytest.raises(InputError) as refused:
        read_manifest(dataset)

    assert refused.value.message == message


def test_no_dataset(tmp_path):
    """A directory that is missing, is a file, or has no manifest is said to be that."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    said = []
    for name in ("missing", "file", "empty"):
        with pytest.raises(InputError) as refused:
            read_manifest(tmp_path / name)
        said.append(refused.value.message)

    assert said == [
        f"there is no dataset directory {tmp_path}/missing",
        f"{tmp_path}/file is a file, not a dataset directory",
        f"{tmp_path}/empty is not a dataset: it has no dataset.json",
    ]


def test_shard_files(dataset):
    """A shard that is missing or has another size is named before anything starts."""
    shard = dataset / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(InputError) as short:
        read_manifest(dataset)
    shard.unlink()
    with pytest.raises(InputError) as missing:
        read_manifest(dataset)

    assert short.value.message == "train-00001.bin has 19,998 bytes, dataset.json says 20,000"
    assert missing.value.message == "train-00001.bin is missing from the dataset"
    assert short.value.where == missing.value.where == str(shard)


def test_round_trip(dataset, tmp_path):
    """What is written is what is read."""
    manifest = read_manifest(dataset)
    (tmp_path / "copy").mkdir()
    write_manifest(tmp_path / "copy", manifest)

    assert read_manifest(tmp_path / "copy", sizes=False) == manifest
    assert (tmp_path / "copy/dataset.json").read_bytes() == (dataset / "dataset.json").read_bytes()


def test_facts_and_fingerprint(dataset):
    """A config gets sizes; the fingerprint gets what decides the tokens and nothing else."""
    manifest = read_manifest(dataset)
    train, val = manifest.splits["train"], manifest.splits["val"]

    assert vars(facts(manifest)) == {
        "vocab_size": 257,
        "train_tokens": train.tokens,
        "val_tokens": val.tokens,
    }
    assert fingerprint_of(manifest) == {
        "train": train.stream_digest,
        "val": val.stream_digest,
        "tokenizer": "8f0176b95c98e4c2de36d0d1c8782f9100c1ad4896b5759e5e901abc8ab66f06",
        "quarantine": [],
    }
    assert recorded_of(manifest)["shards"]["val"] == [vars(val.shards[0])]
    json.dumps(recorded_of(manifest))


def test_fingerprint_survives_resharding(corpus, dataset, tmp_path):
    """Other shards of the same text have the same fingerprint, another vocabulary has not."""
    whole = prepare([corpus], tmp_path / "whole", "byte", val_fraction=0.1).manifest
    other = prepare([corpus], tmp_path / "bpe", "bpe", vocab_size=300, val_fraction=0.1).manifest
    manifest = read_manifest(dataset)

    assert len(manifest.splits["train"].shards) > len(whole.splits["train"].shards)
    assert fingerprint_of(whole) == fingerprint_of(manifest)
    for part in ("train", "val", "tokenizer"):
        assert fingerprint_of(other)[part] != fingerprint_of(manifest)[part]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(257, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_dtype(vocab_size, dtype):
    """Ids of up to 65,536 tokens take two bytes."""
    assert dtype_for(vocab_size) == dtype


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden(dataset):
    """A manifest that may not be read is named."""
    (dataset / "dataset.json").chmod(0)

    with pytest.raises(InputError) as refused:
        read_manifest(dataset)

    assert refused.value.message == f"cannot read {dataset}/dataset.json: Permission denied"


def test_frozen(dataset):
    """A manifest cannot be changed by accident."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_manifest(dataset).dtype = "uint32"
