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
    (put("format", "llmrun-dataset/2"), "format"),
    (drop("format"), "format"),
    (put("colour", 1), "colour"),
    (put("dtype", "float32"), "dtype"),
    (put("tokenizer", None), "tokenizer"),
    (put("tokenizer", "vocab_size", 0), "tokenizer.vocab_size"),
    (put("tokenizer", "vocab_size", 70000), "tokenizer.vocab_size"),
    (put("tokenizer", "vocab_size", "257"), "tokenizer.vocab_size"),
    (put("tokenizer", "eot_id", 257), "tokenizer.eot_id"),
    (put("tokenizer", "kind", "words"), "tokenizer.kind"),
    (put("tokenizer", "sha256", "00"), "tokenizer.sha256"),
    (drop("splits", "val"), "splits.val"),
    (put("splits", "test", {}), "splits.test"),
    (put(*TRAIN, "documents", -1), "splits.train.documents"),
    (put(*TRAIN, "documents", True), "splits.train.documents"),
    (put(*TRAIN, "bytes_of_text", 1.5), "splits.train.bytes_of_text"),
    (put(*TRAIN, "tokens", 5), "splits.train.tokens"),
    (put(*TRAIN, "shards", {}), "splits.train.shards"),
    (put(*TRAIN, "shards", [7]), "splits.train.shards[0]"),
    (drop(*SHARD, "sha256"), "splits.train.shards[0].sha256"),
    (put(*SHARD, "tokens", 0), "splits.train.shards[0].tokens"),
    (put(*SHARD, "bytes", 7), "splits.train.shards[0].bytes"),
    (put(*SHARD, "name", "../train.bin"), "splits.train.shards[0].name"),
    (put(*SHARD, "name", "/etc/passwd"), "splits.train.shards[0].name"),
    (put(*SHARD, "name", ".."), "splits.train.shards[0].name"),
    (put(*SHARD, "name", "a\0b"), "splits.train.shards[0].name"),
    (put(*SHARD, "name", "val-00000.bin"), "val-00000.bin"),
    (put(*SHARD, "name", "dataset.json"), "dataset.json"),
    (put("recipe", []), "recipe"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "key"), BAD_FIELDS, ids=[key for _, key in BAD_FIELDS])
def test_bad_field(dataset, change, key):
    """Every invalid field is refused; the error names the field and the file."""
    edited(dataset, change)

    with pytest.raises(InputError) as refused:
        read_manifest(dataset)

    assert key in refused.value.message
    assert str(refused.value.where).startswith(str(dataset / "dataset.json"))


BAD_FILES = {
    "empty": b"",
    "cut short": b'{"format": ',
    "not UTF-8": b"\xff\xfe",
    "a list": b"[1]",
    "NaN": b'{"a": NaN}',
    "a number that is too large": b'{"a": 1e999}',
    "a name twice": b'{"a": 1, "a": 2}',
    "nested too deeply": b"[" * 200_000,
    "no fields": b"{}",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file(dataset, content):
    """A file that is not a JSON object of the format is refused; the error names the file."""
    (dataset / "dataset.json").write_bytes(content)

    with pytest.raises(InputError) as refused:
        read_manifest(dataset)

    assert str(refused.value.where).startswith(str(dataset / "dataset.json"))


def test_no_dataset(tmp_path):
    """A directory that is missing, is a file, or has no manifest: the error names it and the command that makes one."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "empty"):
        with pytest.raises(InputError) as refused:
            read_manifest(tmp_path / name)

        assert str(tmp_path / name) in refused.value.message
        assert "llmrun data prepare" in refused.value.hints[0]


def test_shard_files(dataset):
    """A shard that is missing or has another size is named before anything starts."""
    shard = dataset / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(InputError) as short:
        read_manifest(dataset)
    shard.unlink()
    with pytest.raises(InputError) as missing:
        read_manifest(dataset)

    assert "19,998" in short.value.message
    assert str(short.value.where) == str(missing.value.where) == str(shard)


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

    assert f"{dataset}/dataset.json" in refused.value.message


def test_frozen(dataset):
    """A manifest cannot be changed by accident."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_manifest(dataset).dtype = "uint32"
