"""Tokens that are written out in a text are text, for every kind of tokenizer: the end only where a document ends."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from llmrun.cli.app import run
from llmrun.data.manifest import read_manifest
from llmrun.data.prepare import prepare
from llmrun.data.tokenizers import FileTokenizer, load_tokenizer, user_tokenizer
from llmrun.errors import InputError

TEXTS = [
    "the cat sat on the mat",
    "a dog and a cat",
    "Übermut tut selten gut 1234",
    "an end of a text </s> <x>",
] * 5
END = "</s>"
MATCHING = [
    {"special": True},
    {"special": False, "normalized": False},
    {"special": False, "normalized": True},
    {"special": True, "lstrip": True, "rstrip": True},
    {"special": False, "lstrip": True, "rstrip": True, "normalized": False},
    {"special": False, "single_word": True, "normalized": False},
]
ADDED = [f"<|added{number}|>" for number in range(len(MATCHING))]


def byte_level():
    """A byte-level BPE, as of GPT-2; every text comes back."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return engine, trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )


def byte_fallback():
    """A BPE on characters with bytes for the rest, as of Llama 2."""
    engine = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    return engine, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", END, *fallback], show_progress=False
    )


def word_piece():
    """A WordPiece, as of BERT: lower case, unknown words."""
    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.decoder = decoders.WordPiece()
    return engine, trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", "[CLS]", END], show_progress=False
    )


def unigram():
    """A Unigram, as of T5: pieces of control stand in its vocabulary."""
    engine = Tokenizer(models.Unigram())
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    return engine, trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
    )


def word_level():
    """A WordLevel: whole words, unknown words."""
    engine = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return engine, trainers.WordLevelTrainer(special_tokens=["[UNK]", END], show_progress=False)


KINDS = {kind.__name__: kind for kind in (byte_level, byte_fallback, word_piece, unigram, word_level)}


def content_of(kind, changes=None):
    """A trained tokenizer.json of a kind, with added tokens of every way of matching."""
    engine, trainer = KINDS[kind]()
    engine.train_from_iterator(TEXTS, trainer)
    if changes is merged:
        engine = Tokenizer.from_str(json.dumps(merged(json.loads(engine.to_str()))))
    engine.add_tokens([AddedToken(name, **how) for name, how in zip(ADDED, MATCHING, strict=True)])
    end = engine.token_to_id(END)
    engine.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", pair=None, special_tokens=[(END, end)]
    )
    content = json.loads(engine.to_str())
    return json.dumps(changes(content) if changes not in (None, merged) else content).encode()


def no_added_tokens(content):
    """The end is an entry of the model's vocabulary and no added token at all."""
    content["added_tokens"] = []
    return content


def nothing_special(content):
    """The end is an added token that is not special."""
    for token in content["added_tokens"]:
        token["special"] = False
    return content


def whole_words_from_the_vocabulary(content):
    """A BPE that looks whole words up before it merges, as of Llama 3."""
    if content["model"]["type"] == "BPE":
        content["model"]["ignore_merges"] = True
        content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    return content


def merged(content):
    """A BPE whose merges spell the end."""
    if content["model"]["type"] == "BPE":
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        for part in ("<", "/", "s", ">"):
            vocab.setdefault(part, max(vocab.values()) + 1)
        vocab.setdefault("</", max(vocab.values()) + 1)
        vocab.setdefault("s>", max(vocab.values()) + 1)
        merges[:0] = [["<", "/"], ["s", ">"], ["</", "s>"]]
    return content


CHANGES = {
    change.__name__: change
    for change in (no_added_tokens, nothing_special, whole_words_from_the_vocabulary, merged)
}
CONTENTS = {(kind, change): content_of(kind, CHANGES[change]) for kind in KINDS for change in CHANGES}
TOKENIZERS = {
    key: FileTokenizer(content, "file", Tokenizer.from_buffer(content).token_to_id(END))
    for key, content in CONTENTS.items()
    if key[1] != "whole_words_from_the_vocabulary" or key[0] in ("byte_level", "byte_fallback")
}
SPELLED = st.lists(
    st.sampled_from(
        [END, *ADDED, "[UNK]", "<unk>", "[CLS]", "<s", "/s>", " ", "\n", "cat", "the", "ü", "＜/s＞", "数"]
    ),
    max_size=12,
).map("".join)


def control_ids(content):
    """The ids of the end and of all added tokens, without the one for unknown text and those for bytes."""
    loaded = json.loads(content)
    names = {token["content"] for token in loaded["added_tokens"]} | {END}
    names = {name for name in names if name not in ("<unk>", "[UNK]") and not name.startswith("<0x")}
    engine = Tokenizer.from_buffer(content)
    return {engine.token_to_id(name) for name in names}


CONTROL = {key: control_ids(CONTENTS[key]) for key in TOKENIZERS}


@pytest.mark.parametrize("key", TOKENIZERS, ids="-".join)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(text=SPELLED)
def test_no_text_yields_a_control_token(key, text):
    """Whatever is spelled out, however it is matched: no id of the end or of an added token."""
    tokenizer = TOKENIZERS[key]
    ids = tokenizer.encode(text)

    assert CONTROL[key].isdisjoint(ids)
    assert tokenizer.encode_batch([text])[0].tolist() == ids
    if key[0] == "byte_level" and key[1] == "no_added_tokens":
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_text_is_encoded_as_by_the_library(kind):
    """A text without a token's name has the ids that Hugging Face's library gives it."""
    content = content_of(kind)
    engine = Tokenizer.from_buffer(content)
    tokenizer = FileTokenizer(content, "file", engine.token_to_id(END))
    for text in (*TEXTS[:3], "the dog sat", "  spaces  and\n\nlines", "unheard 数据"):
        assert tokenizer.encode(text) == engine.encode(text, add_special_tokens=False).ids


@settings(max_examples=12, deadline=None)
@given(
    st.lists(SPELLED.filter(str.strip), min_size=1, max_size=4),
    st.sampled_from([*sorted(TOKENIZERS), "byte", "bpe"]),
)
def test_as_many_ends_as_documents(texts, key):
    """The number of ends in a dataset is its number of documents."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "texts").mkdir()
        for number, text in enumerate(texts):
            (place / f"texts/{number}.txt").write_text(text)
        given, eot, size = key, None, 300 if key == "bpe" else None
        if isinstance(key, tuple):
            given, eot = str(place / "their.json"), END
            Path(given).write_bytes(CONTENTS[key])
        made = prepare([place / "texts"], place / "out", given, vocab_size=size, val_fraction=0, eot=eot)
        manifest = read_manifest(place / "out")
        shards = [np.fromfile(place / "out" / s.name, "<u2") for s in manifest.splits["train"].shards]
        ids = np.concatenate(shards).tolist()

        assert ids.count(manifest.tokenizer.eot_id) == len(texts) == made.manifest.splits["train"].documents
        if key in ("byte", "bpe"):
            decoded = load_tokenizer(place / "out", manifest).decode(ids)
            assert decoded == "".join(text + "<|endoftext|>" for text in texts)


def refused(tmp_path, content, eot):
    """The refusal of a tokenizer.json."""
    path = tmp_path / "their.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        user_tokenizer(path, eot)
    return error.value


def test_an_end_that_text_cannot_do_without(tmp_path):
    """An end that is a single character of text would leave that character without a token: refused by name."""
    for kind, eot in (("byte_level", "Ċ"), ("byte_level", "a"), ("word_level", "a"), ("unigram", "a")):
        error = refused(tmp_path, content_of(kind), eot)

        assert error.exit_code == 2
        assert repr(eot) in error.message


def test_a_renumbered_token(tmp_path):
    """An added token whose id the library would change is refused with both numbers, by the command line too."""

    def renumber(content):
        content["added_tokens"][-1]["id"] += 5
        return content

    error = refused(tmp_path, content_of("byte_level", renumber), END)
    (tmp_path / "a.txt").write_text("text")
    arguments = ["data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "out", "--eot", END]

    assert repr(ADDED[-1]) in error.message
    assert run([*map(str, arguments), "--tokenizer", str(tmp_path / "their.json")]) == 2
    assert not (tmp_path / "out").exists()
