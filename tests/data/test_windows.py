"""Windows of a split: the right tokens across shards, and damage found when a shard is opened."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.core.windows import count_windows
from llmrun.data.manifest import DatasetManifest, TokenizerRecord, read_manifest
from llmrun.data.shard_reader import DamagedShardError, open_split
from llmrun.data.shard_writer import ShardWriter
from llmrun.errors import InputError


def dataset_of(directory, tokens, shard_tokens, dtype="uint16"):
    """The manifest of a dataset whose train split is `tokens`."""
    writer = ShardWriter(directory, "train", dtype, shard_tokens)
    writer.append(tokens)
    train = writer.finish(1, len(tokens))
    empty = ShardWriter(directory, "val", dtype, shard_tokens).finish(0, 0)
    record = TokenizerRecord("byte", 257, 256, None, "0" * 64)
    return DatasetManifest(dtype, record, {"train": train, "val": empty}, {})


@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 80), st.sampled_from(["uint16", "uint32"]))
def test_windows_are_slices(n_tokens, L_ctx, shard_tokens, dtype):
    """Window w is tokens [w·L, w·L + L + 1) of the stream, for any length, L and shard size."""
    stream = (np.arange(n_tokens) * 7919 % 65521).astype(np.uint32)
    with tempfile.TemporaryDirectory() as name:
        manifest = dataset_of(Path(name), stream, shard_tokens, dtype)
        if n_tokens <= L_ctx:
            assert count_windows(n_tokens, L_ctx) == 0
            return
        split = open_split(Path(name), manifest, "train", L_ctx, verify=True)
        windows = [split.window(w) for w in range(split.n_windows)]

    assert split.n_windows == (n_tokens - 1) // L_ctx
    assert all(window.dtype == np.int32 for window in windows)
    for w, window in enumerate(windows):
        assert window.tolist() == stream[w * L_ctx : w * L_ctx + L_ctx + 1].tolist()


@pytest.mark.parametrize(
    ("n_tokens", "L_ctx", "expected"), [(0, 4, 0), (1, 1, 0), (4, 4, 0), (5, 4, 1), (8, 4, 1), (9, 4, 2)]
)
def test_count(n_tokens, L_ctx, expected):
    """W = floor((n-1)/L)."""
    assert count_windows(n_tokens, L_ctx) == expected


def test_too_small(tmp_path):
    """A split without one window is refused with both numbers and the way out."""
    manifest = dataset_of(tmp_path, np.arange(100, dtype=np.uint16), 64)
    refusals = []
    for name in ("train", "val"):
        with pytest.raises(InputError) as refused:
            open_split(tmp_path, manifest, name, 100, verify=True)
        refusals.append(refused.value)

    assert all(str(refused.where) == str(tmp_path) for refused in refusals)
    assert all("101" in refused.message for refused in refusals)
    assert all("L_ctx" in str(refused.hints[0]) for refused in refusals)


@pytest.fixture
def damaged(tmp_path):
    """A dataset of four shards; the third has one bit flipped."""
    manifest = dataset_of(tmp_path, np.arange(400, dtype=np.uint16), 100)
    shard = tmp_path / "train-00002.bin"
    content = bytearray(shard.read_bytes())
    content[77] ^= 4
    shard.write_bytes(content)
    return tmp_path, manifest


def test_damage_is_found_when_opened(damaged):
    """Sound shards are read; the flipped one stops the run (exit 4), named with both sha256s."""
    directory, manifest = damaged
    split = open_split(directory, manifest, "train", 50, verify=True)
    assert split.window(1).tolist() == list(range(50, 101))
    with pytest.raises(DamagedShardError) as stopped:
        split.window(4)

    assert stopped.value.exit_code == 4
    assert str(stopped.value.where) == str(directory / "train-00002.bin")
    assert stopped.value.caused_by[0] == f"expected sha256 {manifest.splits['train'].shards[2].sha256}"
    assert stopped.value.caused_by[1].startswith("found    sha256 ")


def test_never_verified(damaged):
    """With data.verify = never the flipped bit goes through, but a short file does not."""
    directory, manifest = damaged
    open_split(directory, manifest, "train", 50, verify=False).window(4)
    (directory / "train-00002.bin").write_bytes(b"\0" * 198)
    with pytest.raises(DamagedShardError) as short:
        open_split(directory, manifest, "train", 50, verify=False).window(4)
    (directory / "train-00002.bin").unlink()
    with pytest.raises(DamagedShardError) as missing:
        open_split(directory, manifest, "train", 50, verify=False).window(4)

    assert "198" in short.value.message
    assert str(short.value.where) == str(missing.value.where) == str(directory / "train-00002.bin")


def test_damage_survives_pickling(damaged):
    """The error crosses from a loader process to its parent whole."""
    directory, manifest = damaged
    with pytest.raises(DamagedShardError) as stopped:
        open_split(directory, manifest, "train", 50, verify=True).window(4)
    copy = pickle.loads(pickle.dumps(stopped.value))

    assert type(copy) is DamagedShardError
    assert copy.as_json() == stopped.value.as_json()


def test_split_pickles_without_content(dataset):
    """A split travels to a loader process as names, also once shards are open."""
    split = open_split(dataset, read_manifest(dataset), "train", 64, verify=True)
    split.window(0)
    message = pickle.dumps(split)

    assert len(message) < 4000
    assert pickle.loads(message).window(5).tolist() == split.window(5).tolist()


def test_data_needs_no_torch():
    """The package never imports torch, nor tokenizers before they are needed."""
    modules = "check, documents, order_file, prepare, shard_reader, tokenizers"
    script = (
        f"from llmrun.data import {modules}; from llmrun.core import order, windows; import sys; print('torch' in sys.modules, "
        "'tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "False False\n"
