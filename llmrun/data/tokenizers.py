"""Tokenizers: bytes, a byte-level BPE trained here, or a `tokenizer.json` of the user's.

A document's text never yields the token that ends documents, even where it spells it out.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrun.core.streams import canonical_json
from llmrun.data.bpe_training import cut_long_words, train_in_process
from llmrun.data.bpe_worker import END_OF_TEXT
from llmrun.data.documents import Report, silent
from llmrun.data.manifest import LARGEST_VOCABULARY, DatasetManifest, TokenizerRecord
from llmrun.data.text_engine import Unspeakable, renumbered, text_content
from llmrun.errors import InputError
from llmrun.storage.regular_file import read_regular_file

TOKENIZER_NAME = "tokenizer.json"
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Names of the token that ends a document, in the order they are looked for."""

SMALLEST_BPE = 257
LARGEST_BPE = 2**24
PIECE_CHARS = 256 * 1024
GROUP_CHARS = 4 * 1024 * 1024

_CUT = re.compile(r"(?<=\S)[ \n]")
"""A space or newline after something else: no token of the byte-level BPE reaches across it."""


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def record(self) -> TokenizerRecord:
        """What the manifest says of it."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of many texts: uint32 [n] each, the same as `encode`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class ByteTokenizer:
    """Ids 0 … 255 are bytes of UTF-8, 256 ends a document."""

    EOT_ID = 256

    @property
    def record(self) -> TokenizerRecord:
        """sha256 is that of the canonical JSON of kind, vocab_size and eot_id."""
        facts: dict[str, Any] = {"kind": "byte", "vocab_size": 257, "eot_id": self.EOT_ID}
        return TokenizerRecord(
            **facts, file=None, sha256=hashlib.sha256(canonical_json(facts).encode()).hexdigest()
        )

    def encode(self, text: str) -> list[int]:
        """The bytes of UTF-8."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The bytes of each text."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text, with `<|endoftext|>` where a document ends."""
        return b"".join(map(self._bytes_of, ids)).decode(errors="replace")

    def _bytes_of(self, token: int) -> bytes:
        """One byte, or what is shown for an id that is none (a model's table may be larger)."""
        if token < 256:
            return bytes([token])
        return (END_OF_TEXT if token == self.EOT_ID else "\ufffd").encode()


class FileTokenizer:
    """A tokenizer in the JSON form of Hugging Face's `tokenizers`.

    content: the file's bytes.  kind: "bpe" (trained by `train_bpe`) or "file".
    """

    def __init__(self, content: bytes, kind: str, eot_id: int) -> None:
        self._engine = load_engine(content)
        self._is_own = kind == "bpe"
        self.content = content
        self.record = TokenizerRecord(
            kind=kind,
            vocab_size=vocabulary_size(self._engine),
            eot_id=eot_id,
            file=TOKENIZER_NAME,
            sha256=hashlib.sha256(content).hexdigest(),
        )

    @cached_property
    def _text_engine(self) -> Any:
        """The engine without control tokens.  Raises InputError if text needs one of them."""
        try:
            return load_engine(text_content(self.content, self._engine, self.record.eot_id))
        except Unspeakable as error:
            raise InputError(
                f"the tokenizer cannot encode text: {error}", hints=["choose another token with `--eot NAME`"]
            ) from error

    def check_speakable(self) -> None:
        """Raises InputError if the tokenizer needs a control token for ordinary text."""
        _ = self._text_engine

    def encode(self, text: str) -> list[int]:
        """The ids of a text; nothing is added at its ends.  Raises InputError as `encode_batch` does."""
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of many texts.  Long ones go in pieces where that cannot change a token.

        Raises InputError if the tokenizer has no id for something, such as without an unknown token, or has none
        but the token that ends documents.
        """
        pieces = [list(pieces_of(text)) if self._is_own else [text] for text in texts]
        ids = iter(self._encode_pieces([piece for own in pieces for piece in own]))
        return [np.concatenate([next(ids) for _ in own]) for own in pieces]

    def _encode_pieces(self, pieces: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each piece; some MiB at a time, for the engine keeps 20 bytes and more per byte."""
        ids: list[NDArray[np.uint32]] = []
        try:
            for group in grouped(pieces):
                with _plain_exceptions():
                    encodings = self._text_engine.encode_batch_fast(group, add_special_tokens=False)
                ids += [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        except ValueError as error:
            raise InputError("the tokenizer cannot encode this text", caused_by=[str(error)]) from error
        if any((own == self.record.eot_id).any() for own in ids):
            raise InputError(
                f"the tokenizer cannot encode this text: it has only the token {self.record.eot_id}, which ends"
                " documents, for some of it"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens included."""
        text: str = self._engine.decode(list(ids), skip_special_tokens=False)
        return text


def pieces_of(text: str, n_chars: int = PIECE_CHARS) -> Iterator[str]:
    """`text` in pieces of at least `n_chars` >= 1, cut before a space or newline that follows something else."""
    assert n_chars >= 1
    start = 0
    while True:
        cut = _CUT.search(text, start + n_chars)
        if cut is None:
            yield text[start:]
            return
        yield text[start : cut.start()]
        start = cut.start()


def grouped(pieces: Sequence[str], n_chars: int = GROUP_CHARS) -> Iterator[list[str]]:
    """Neighbouring pieces of at least `n_chars` together."""
    group: list[str] = []
    chars_in_group = 0
    for piece in pieces:
        group.append(piece)
        chars_in_group += len(piece)
        if chars_in_group >= n_chars:
            yield group
            group, chars_in_group = [], 0
    if group:
        yield group


@contextmanager
def _plain_exceptions() -> Iterator[None]:
    """`tokenizers` raises plain Exception for whatever it does not like; here it becomes a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(str(error)) from error


def load_engine(content: bytes) -> Any:
    """The `tokenizers.Tokenizer` of a `tokenizer.json`, without truncation and padding.

    Raises ValueError where the content is none.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Engine

    with _plain_exceptions():
        engine = Engine.from_str(content.decode())
    engine.no_truncation()
    engine.no_padding()
    return engine


def vocabulary_size(engine: Any) -> int:
    """The largest id plus one: ids may have gaps."""
    return 1 + max(engine.get_vocab(with_added_tokens=True).values(), default=-1)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    report: Report = silent,
    on_long_word: Callable[[int], None] = lambda _: None,
) -> FileTokenizer:
    """A byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2) trained on `texts`.

    on_long_word: called with the characters of each word that is cut for training (`bpe_training.WORD_CHARS`).
    The same texts in the same order give the same file.  A small corpus may give a smaller vocabulary.
    Raises RunFailedError if the process that trains is killed.
    """
    pieces = (piece for text in texts for piece in cut_long_words(text, on_long_word))
    content = train_in_process(pieces, vocab_size, report)
    eot_id = load_engine(content).token_to_id(END_OF_TEXT)
    assert eot_id is not None
    return FileTokenizer(content, "bpe", eot_id)


def user_tokenizer(path: Path, eot: str | None) -> FileTokenizer:
    """A tokenizer given as a `tokenizer.json`.

    eot: the name of the token that ends a document; None looks for a usual one.
    Raises InputError if the file is none, has no such token, numbers a token otherwise than the library does, or
    needs a control token for ordinary text.
    """
    try:
        content = read_regular_file(path)
        engine = load_engine(content)
    except OSError as error:
        raise InputError(
            f"cannot read the tokenizer {path}: {error.strerror}",
            hints=["--tokenizer takes `byte`, `bpe`, or the path of a tokenizer.json"],
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not a tokenizer.json of Hugging Face's tokenizers", caused_by=[str(error)]
        ) from error
    if not 1 <= vocabulary_size(engine) <= LARGEST_VOCABULARY:
        raise InputError(f"the tokenizer {path} has {vocabulary_size(engine):,} tokens")
    _refuse_renumbered(content, engine, path)
    tokenizer = FileTokenizer(content, "file", _end_id(engine, path, eot))
    tokenizer.check_speakable()
    return tokenizer


def _refuse_renumbered(content: bytes, engine: Any, path: Path) -> None:
    """Refuse added tokens to which the library gives another id than the file states."""
    wrong = renumbered(content, engine)
    if not wrong:
        return
    token, given = wrong[0]
    more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
    raise InputError(
        f"the id of the added token {token.content!r} must be {given}, got {token.id}{more}: the tokenizers library"
        " numbers added tokens behind the model's vocabulary, without gaps",
        where=str(path),
        hints=["correct the ids in `added_tokens`, or add the tokens to the model's vocabulary"],
    )


def _end_id(engine: Any, path: Path, eot: str | None) -> int:
    """The id of the token that ends a document."""
    for name in END_NAMES if eot is None else (eot,):
        found: int | None = engine.token_to_id(name)
        if found is not None:
            return found
    if eot is not None:
        raise InputError(
            f"the tokenizer {path} has no token {eot!r}", hints=["name one of its tokens with --eot"]
        )
    raise InputError(
        f"the tokenizer {path} has none of the usual tokens that end a document: {', '.join(END_NAMES)}",
        hints=["name the one to use with `--eot NAME`"],
    )


def load_tokenizer(directory: Path, manifest: DatasetManifest) -> Tokenizer:
    """The tokenizer of a dataset directory, checked against its sha256.  Raises InputError."""
    record = manifest.tokenizer
    if record.file is None:
        tokenizer: Tokenizer = ByteTokenizer()
        path = directory
    else:
        path = directory / record.file
        tokenizer = _load_file(path, record)
    if replace(tokenizer.record, file=record.file) != record:
        raise InputError("the tokenizer is not the one that dataset.json states", where=str(path))
    return tokenizer


def _load_file(path: Path, record: TokenizerRecord) -> FileTokenizer:
    hints = ["copy the file again, or make the dataset anew"]
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise InputError(f"cannot read the tokenizer {path}: {error.strerror}", hints=hints) from error
    found = hashlib.sha256(content).hexdigest()
    if found != record.sha256:
        raise InputError(
            f"{path.name} is damaged: its sha256 is not what dataset.json says",
            where=str(path),
            caused_by=[f"expected sha256 {record.sha256}", f"found    sha256 {found}"],
            hints=hints,
        )
    try:
        return FileTokenizer(content, record.kind, record.eot_id)
    except ValueError as error:
        raise InputError(f"{path} is not a tokenizer.json", caused_by=[str(error)]) from error
