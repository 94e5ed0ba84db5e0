"""Datasets of random tokens."""

import pytest

from llmrun.data.manifest import read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.data.synthetic import write_random_dataset


@pytest.mark.parametrize("vocab_size", [5, 300, 100_000])
def test_a_random_dataset_is_a_dataset(tmp_path, vocab_size: int) -> None:
    """It can be read and checked like any other, and its tokens are within the vocabulary and spread over it."""
    write_random_dataset(tmp_path / "data", vocab_size, 5000)
    manifest = read_manifest(tmp_path / "data")
    split = open_split(tmp_path / "data", manifest, "train", 999, verify=True)
    tokens = split.window(3)

    assert split.n_windows == 5
    assert 0 <= tokens.min() <= tokens.max() < vocab_size
    assert len(set(tokens.tolist())) > min(vocab_size, 1000) / 2
