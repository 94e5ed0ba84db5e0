"""Stream digests are compared with the shards, whatever the sharding and the dtype."""

import json

import pytest

from llmrun.data.check import contradicted_streams, within_start
from llmrun.data.manifest import read_manifest
from llmrun.data.prepare import prepare
from llmrun.storage.durable import sha256_of


@pytest.mark.parametrize("shard_tokens", [7_001, 10_000_000])
def test_what_was_prepared_agrees(corpus, tmp_path, shard_tokens):
    """One shard or many, with ends at odd places."""
    prepare([corpus], tmp_path / "made", "byte", val_fraction=0.1, shard_tokens=shard_tokens)
    manifest = read_manifest(tmp_path / "made")

    assert within_start(manifest)
    assert contradicted_streams(tmp_path / "made", manifest) == []


def test_other_tokens_under_a_right_sha256_are_found(dataset):
    """A token was changed and the shard's sha256 made right: the stream digest names other data."""
    shard = dataset / "train-00001.bin"
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    document = json.loads((dataset / "dataset.json").read_text())
    document["splits"]["train"]["shards"][1]["sha256"] = sha256_of(shard)
    (dataset / "dataset.json").write_text(json.dumps(document))

    (line,) = contradicted_streams(dataset, read_manifest(dataset))
    assert "stream digest of train" in line


def test_a_damaged_or_missing_shard_is_another_damage(dataset):
    """It is named by its own check, and the stream of the other split is compared all the same."""
    manifest = read_manifest(dataset)
    shard = dataset / "train-00000.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert contradicted_streams(dataset, manifest) == []
    shard.unlink()
    assert contradicted_streams(dataset, manifest) == []
