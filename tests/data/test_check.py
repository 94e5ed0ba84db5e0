"""Checking a dataset: every kind of damage is named by its file."""

import json

import pytest

from llmrun.data.check import check_dataset
from llmrun.data.prepare import prepare
from llmrun.errors import InputError
from llmrun.storage.durable import sha256_of


@pytest.fixture
def sound(corpus, tmp_path):
    """A sound dataset with a tokenizer of its own."""
    prepare([corpus], tmp_path / "sound", "bpe", vocab_size=300, val_fraction=0.1, shard_tokens=5000)
    return tmp_path / "sound"


def flip(path, offset):
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_sound(sound, dataset):
    """What was prepared is sound."""
    assert check_dataset(sound) == []
    assert check_dataset(dataset) == []


def kinds_of(damages):
    """File and kind of each damage."""
    return [(damage.file, damage.kind) for damage in damages]


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00002.bin", "val-00000.bin"])
@pytest.mark.parametrize("offset", [0, 1001, -1])
def test_one_bit(sound, name, offset):
    """One flipped bit anywhere in a shard is found."""
    expected = sha256_of(sound / name)
    flip(sound / name, offset)

    (damage,) = check_dataset(sound)

    assert (damage.file, damage.kind) == (name, "sha256")
    assert expected in damage.message
    assert sha256_of(sound / name) in damage.message


def test_zoo(sound):
    """Short, missing and exchanged files are all named in one go."""
    (sound / "train-00000.bin").write_bytes((sound / "train-00000.bin").read_bytes()[:-2])
    (sound / "train-00001.bin").unlink()
    flip(sound / "tokenizer.json", 100)
    (sound / "sources.sha256").write_text("")
    damages = check_dataset(sound)

    assert kinds_of(damages) == [
        ("train-00000.bin", "size"),
        ("train-00001.bin", "missing"),
        ("tokenizer.json", "tokenizer"),
        ("sources.sha256", "sha256"),
    ]
    assert "9,998" in damages[0].message


def test_missing_tokenizer_and_sources(sound):
    """Files beside the shards are missed too."""
    (sound / "tokenizer.json").unlink()
    (sound / "sources.sha256").unlink()

    assert kinds_of(check_dataset(sound)) == [
        ("tokenizer.json", "tokenizer"),
        ("sources.sha256", "missing"),
    ]


def edit(dataset, change):
    """Change the object of dataset.json."""
    content = json.loads((dataset / "dataset.json").read_text())
    change(content)
    (dataset / "dataset.json").write_text(json.dumps(content))


def test_stale_stream_digest(sound):
    """Sound shards in another order are not the split that the manifest states."""
    edit(sound, lambda content: content["splits"]["train"]["shards"].insert(
        0, content["splits"]["train"]["shards"].pop(1)
    ))  # fmt: skip

    (damage,) = check_dataset(sound)

    assert (damage.file, damage.kind) == ("dataset.json", "stream_digest")
    assert "train" in damage.message


def test_ids_beyond_the_vocabulary(dataset):
    """A shard whose sha256 holds, but whose ids the vocabulary has not, is named."""
    path = dataset / "val-00000.bin"
    flip(path, 1)

    def restate(content):
        content["splits"]["val"]["shards"][0]["sha256"] = sha256_of(path)

    edit(dataset, restate)
    damages = check_dataset(dataset)

    assert kinds_of(damages) == [("val-00000.bin", "token")]
    assert "257" in damages[0].message


def test_other_tokenizer_stated(sound):
    """A manifest that states another vocabulary than its tokenizer has is named."""
    edit(sound, lambda content: content["tokenizer"].update(vocab_size=400))

    assert kinds_of(check_dataset(sound)) == [("tokenizer.json", "tokenizer")]


def test_no_dataset(tmp_path):
    """Without a sound manifest there is nothing to check: wrong input, not damage."""
    with pytest.raises(InputError):
        check_dataset(tmp_path)
