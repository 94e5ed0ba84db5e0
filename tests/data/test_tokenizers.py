"""Tokenizers: text comes back, training is deterministic, a document's text never ends a document."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.data.manifest import read_manifest
from llmrun.data.prepare import prepare
from llmrun.data.tokenizers import (
    ByteTokenizer,
    FileTokenizer,
    grouped,
    load_tokenizer,
    pieces_of,
    train_bpe,
    user_tokenizer,
)
from llmrun.errors import InputError

from .conftest import text_of

TRAINING = [text_of(number) for number in range(50)]
BPE = train_bpe(TRAINING, 320)
TEXTS = st.text(st.characters(codec="utf-8")) | st.text("ab 12\n\t.,'ü数\u2003")


@given(TEXTS)
def test_round_trip(text):
    """Any text comes back from bytes and from the byte-level BPE."""
    for tokenizer in (ByteTokenizer(), BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(TEXTS, max_size=5))
def test_batch_equals_single(texts):
    """Encoding many texts gives what encoding each gives."""
    for tokenizer in (ByteTokenizer(), BPE):
        batch = [ids.tolist() for ids in tokenizer.encode_batch(texts)]

        assert batch == [tokenizer.encode(text) for text in texts]


@given(TEXTS, st.integers(1, 10))
def test_pieces_change_no_token(text, n_chars):
    """The BPE gives the same ids for a text and for its pieces, however small they are."""
    pieces = list(pieces_of(text, n_chars))

    assert "".join(pieces) == text
    assert [i for piece in pieces for i in BPE.encode(piece)] == BPE.encode(text)


def test_long_text_goes_in_pieces():
    """A text of many pieces is encoded to the same ids as at once."""
    text = "".join(TRAINING) * 60
    assert len(list(pieces_of(text))) > 2

    assert BPE.encode_batch([text, "", text[:9]])[0].tolist() == BPE.encode(text)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["byte", "bpe"])
def test_text_never_ends_a_document(tokenizer):
    """A text that spells out the end of a document is only text."""
    ids = tokenizer.encode("before<|endoftext|>after")

    assert tokenizer.record.eot_id not in ids
    assert tokenizer.decode(ids) == "before<|endoftext|>after"
    assert tokenizer.decode([tokenizer.record.eot_id]) == "<|endoftext|>"


def test_records():
    """Sizes, ends and hashes as the manifest states them."""
    byte, bpe = ByteTokenizer().record, BPE.record

    assert (byte.kind, byte.vocab_size, byte.eot_id, byte.file) == ("byte", 257, 256, None)
    assert (bpe.kind, bpe.vocab_size, bpe.eot_id, bpe.file) == ("bpe", 320, 0, "tokenizer.json")
    assert byte.sha256 == hashlib.sha256(b'{"eot_id":256,"kind":"byte","vocab_size":257}').hexdigest()
    assert bpe.sha256 == hashlib.sha256(BPE.content).hexdigest()


def test_ids_outside_the_vocabulary():
    """Ids that a larger model may produce decode to something, not to an error."""
    assert ByteTokenizer().decode([72, 105, 300]) == "Hi\ufffd"
    assert BPE.decode([100_000]) == ""


TRAIN = """
import hashlib, sys
from llmrun.data.tokenizers import train_bpe
texts = [f"Document {i}: the {i * i % 97} sums of {i % 13} lanes und Übermut" for i in range(3000)]
texts.append("x" * 5000 + " " * 999 + "".join(chr(0x4E00 + i * i % 3000) for i in range(2000)))
print(hashlib.sha256(train_bpe(texts, 600).content).hexdigest())
"""


def test_training_is_deterministic():
    """Processes with other hash seeds and thread counts train the same file."""
    settings = [("1", "0", "true"), ("2", "1", "true"), ("4", "2", "true"), ("1", "3", "false")]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=os.environ
            | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads, seed, parallel in settings
    }

    assert len(hashes) == 1


def user_file(tmp_path, end="</s>", **changes):
    """A tokenizer.json as a user may have it: another end, truncation, padding, a template."""
    content = json.loads(BPE.content)
    content["added_tokens"][0]["content"] = end
    content["model"]["vocab"][end] = content["model"]["vocab"].pop("<|endoftext|>")
    path = tmp_path / "their.json"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"])
def test_user_tokenizer(tmp_path, end):
    """A tokenizer.json is taken as it is, and a usual end of document is found."""
    tokenizer = user_tokenizer(user_file(tmp_path, end), None)

    assert tokenizer.record.kind == "file"
    assert tokenizer.record.eot_id == 0
    assert tokenizer.content == (tmp_path / "their.json").read_bytes()
    assert tokenizer.encode(TRAINING[3]) == BPE.encode(TRAINING[3])


def test_user_tokenizer_settings(tmp_path):
    """Truncation and padding that a tokenizer.json may carry do not touch our text."""
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "</s>",
    }
    tokenizer = user_tokenizer(user_file(tmp_path, truncation=cut, padding=pad), None)

    assert tokenizer.encode(TRAINING[0]) == BPE.encode(TRAINING[0])
    assert tokenizer.encode("a") == BPE.encode("a")


def test_named_end(tmp_path):
    """--eot names any token; a name that is none, or none found, is said."""
    path = user_file(tmp_path, "[END]")
    with pytest.raises(InputError) as unfound:
        user_tokenizer(path, None)
    with pytest.raises(InputError) as unknown:
        user_tokenizer(path, "[STOP]")

    assert user_tokenizer(path, "[END]").record.eot_id == 0
    assert "<|endoftext|>, <|end_of_text|>, </s>, <eos>" in unfound.value.message
    assert "`--eot NAME`" in unfound.value.hints[0]
    assert "'[STOP]'" in unknown.value.message


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", BPE.content[:-30]])
def test_no_tokenizer(tmp_path, content):
    """A file that is no tokenizer.json is said to be none."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        user_tokenizer(path, None)

    assert str(path) in refused.value.message
    assert len(refused.value.caused_by) == 1


def test_missing_tokenizer(tmp_path):
    """A misspelt kind is taken for a path, and the hint says what there is."""
    with pytest.raises(InputError) as refused:
        user_tokenizer(tmp_path / "bep", None)

    assert f"{tmp_path}/bep" in refused.value.message
    assert "`bpe`" in refused.value.hints[0]


def test_text_without_ids(tmp_path):
    """A tokenizer that has no id for a word and no unknown token is named as the cause."""
    words = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"</s>": 0, "known": 1}, "unk_token": "[UNK]"},
    }
    tokenizer = FileTokenizer(json.dumps(words).encode(), "file", 0)
    assert tokenizer.encode_batch(["known known"])[0].tolist() == [1, 1]
    with pytest.raises(InputError) as refused:
        tokenizer.encode_batch(["known", "unheard"])

    assert "[UNK]" in refused.value.caused_by[0]


@pytest.fixture
def bpe_dataset(corpus, tmp_path):
    """A dataset with a trained tokenizer."""
    prepare([corpus], tmp_path / "bpe", "bpe", vocab_size=300)
    return tmp_path / "bpe"


def test_loaded_from_dataset(dataset, bpe_dataset):
    """A dataset brings its tokenizer along."""
    text = text_of(5)
    for directory in (dataset, bpe_dataset):
        tokenizer = load_tokenizer(directory, read_manifest(directory))

        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_damaged_in_dataset(bpe_dataset):
    """A tokenizer.json that is not the dataset's is refused with both sha256s; so is a missing one."""
    manifest, path = read_manifest(bpe_dataset), bpe_dataset / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"true", b"null"))
    with pytest.raises(InputError) as damaged:
        load_tokenizer(bpe_dataset, manifest)
    path.unlink()
    with pytest.raises(InputError) as missing:
        load_tokenizer(bpe_dataset, manifest)

    assert str(damaged.value.where) == str(path)
    assert damaged.value.caused_by[0] == f"expected sha256 {manifest.tokenizer.sha256}"
    assert str(path) in missing.value.message


@given(st.lists(TEXTS), st.integers(1, 9))
def test_groups(pieces, n_chars):
    """Groups hold every piece in order, and none but the last is too small."""
    groups = list(grouped(pieces, n_chars))

    assert [piece for group in groups for piece in group] == pieces
    assert all(sum(map(len, group)) >= n_chars for group in groups[:-1])
