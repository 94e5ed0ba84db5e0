"""Small corpora and datasets made of real files."""

from pathlib import Path

import pytest

from llmrun.data.prepare import prepare

SENTENCE = "the order of sums is the result never sort never skip a zero lane Ünïcödé 数据 and so on"
WORDS = SENTENCE.split()


def text_of(number: int, n_words: int = 60) -> str:
    """A document like no other."""
    words = [WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(n_words)]
    return f"Document {number}\n\n" + " ".join(words) + ".\n"


def write_corpus(directory: Path, count: int) -> Path:
    """`count` documents in a directory with one level below it."""
    for number in range(count):
        folder = directory / f"part-{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.txt").write_bytes(text_of(number).encode())
    return directory


@pytest.fixture
def corpus(tmp_path):
    """120 documents: enough for a split by document."""
    return write_corpus(tmp_path / "corpus", 120)


@pytest.fixture
def dataset(tmp_path, corpus):
    """A byte dataset of several shards."""
    prepare([corpus], tmp_path / "dataset", "byte", val_fraction=0.1, shard_tokens=10_000)
    return tmp_path / "dataset"
