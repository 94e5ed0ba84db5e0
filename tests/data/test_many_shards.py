"""More shards than a process may have open files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrun.data.manifest import DatasetManifest, TokenizerRecord, read_manifest, write_manifest
from llmrun.data.shard_reader import DamagedShardError, open_split
from llmrun.data.shard_writer import ShardWriter

N_SHARDS = 1000
SHARD_TOKENS = 8
READ = """
import json, os, resource, sys
from pathlib import Path
from llmrun.data.manifest import read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.errors import LlmrunError

directory, hoard, verify = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "verify"
manifest = read_manifest(directory)
split = open_split(directory, manifest, "train", 8, verify)
total = 0
try:
    for _ in range(2):
        for w in range(split.n_windows):
            total += int(split.window(w).sum())
    print(json.dumps({"total": total, "open": len(os.listdir("/proc/self/fd"))}))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(hoard)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1,) * 2)
    open_split(directory, manifest, "train", 8, verify).window(3)
except LlmrunError as error:
    print(json.dumps({"kind": type(error).__name__, **error.as_json()}))
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """1,000 shards of 8 tokens."""
    directory = tmp_path_factory.mktemp("shards")
    tokens = np.arange(N_SHARDS * SHARD_TOKENS, dtype=np.uint32) % 251
    writer = ShardWriter(directory, "train", "uint16", SHARD_TOKENS)
    writer.append(tokens)
    splits = {"train": writer.finish(1, len(tokens)), "val": writer_of_nothing(directory)}
    write_manifest(
        directory, DatasetManifest("uint16", TokenizerRecord("byte", 257, 256, None, "0" * 64), splits, {})
    )
    return directory, tokens


def writer_of_nothing(directory):
    """An empty validation split."""
    return ShardWriter(directory, "val", "uint16", SHARD_TOKENS).finish(0, 0)


def read_all(directory: Path, *arguments: str) -> list[dict]:
    """Every window twice in a process that may have 64 open files; the objects that it prints."""
    command = ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", sys.executable, "-c", READ]
    done = subprocess.run([*command, directory, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_thousand_shards_need_few_descriptors(dataset):
    """`ulimit -n 64` reads the right tokens and leaves room for other files; the limit itself is no damage."""
    directory, tokens = dataset
    right, refused = read_all(directory, "3", "verify")
    windows = [tokens[w * 8 : w * 8 + 9] for w in range((len(tokens) - 1) // 8)]
    assert right["total"] == 2 * sum(int(window.sum()) for window in windows)
    assert right["open"] <= 32
    assert refused["kind"] == "run_failed"
    assert refused["exit_code"] == 4
    assert any("ulimit -n" in hint["text"] for hint in refused["hints"])
    assert not any("copy" in hint["text"] for hint in refused["hints"])


def test_a_shard_that_is_opened_again_is_the_one_that_was_checked(dataset, tmp_path, monkeypatch):
    """A shard that was closed meanwhile and replaced by other bytes of the same size is damaged."""
    monkeypatch.setattr("llmrun.data.shard_reader.OPEN_SHARDS_MAX", 2)
    directory, _ = dataset
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    manifest = read_manifest(copy)
    split = open_split(copy, manifest, "train", 8, verify=True)
    for w in range(5):
        split.window(w)
    first = copy / manifest.splits["train"].shards[0].name
    other = copy / "other"
    other.write_bytes(bytes(first.stat().st_size))
    other.replace(first)
    with pytest.raises(DamagedShardError):
        split.window(0)
