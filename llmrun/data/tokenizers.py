"""Tokenizers: bytes, a byte-level BPE trained here, or the user's `tokenizer.json`.

The text of a document is never encoded to the token that ends documents, even if it contains the name of that token.
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
from llmrun.data.control_tokens import (
    ControlTokenNeededError,
    renumbered,
    special_names,
    without_control_tokens,
)
from llmrun.data.documents import ReportProgress, no_report
from llmrun.data.manifest import COPY_HINT, LARGEST_VOCABULARY, DatasetManifest, TokenizerRecord
from llmrun.errors import InputError
from llmrun.storage.regular_file import read_regular_file

TOKENIZER_NAME = "tokenizer.json"
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Usual names of the token that ends a document, in order of preference."""

SMALLEST_BPE = 257
LARGEST_BPE = 2**24

PIECE_CHARS = 256 * 1024
"""Shortest piece of a long text that is encoded alone."""

GROUP_CHARS = 4 * 1024 * 1024
"""Text that is encoded at a time: the library needs 20 bytes of memory and more per byte."""

_CUT = re.compile(r"(?<=\S)[ \n]")
"""A space or newline after another character: no token of the byte-level BPE crosses the place before it."""


class Tokenizer(Protocol):
    """Encodes text to token ids and decodes it."""

    @property
    def record(self) -> TokenizerRecord:
        """The tokenizer as the manifest records it."""
        ...

    def encode(self, text: str) -> list[int]:
        """The token ids of a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The token ids of many texts, each uint32 [n]; the same as `encode`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def control_names(self) -> tuple[str, ...]:
        """The names of the token that ends documents and of all special tokens, which are text in a text."""
        ...


class ByteTokenizer:
    """Ids 0 … 255 are the bytes of UTF-8; 256 ends a document."""

    EOT_ID = 256

    @property
    def record(self) -> TokenizerRecord:
        """See `Tokenizer.record`; sha256 is that of the canonical JSON of kind, vocab_size and eot_id."""
        facts: dict[str, Any] = {"kind": "byte", "vocab_size": 257, "eot_id": self.EOT_ID}
        return TokenizerRecord(
            **facts, file=None, sha256=hashlib.sha256(canonical_json(facts).encode()).hexdigest()
        )

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """See `Tokenizer.encode_batch`."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`; the end of a document becomes `<|endoftext|>`."""
        return b"".join(map(self._bytes_of, ids)).decode(errors="replace")

    def control_names(self) -> tuple[str, ...]:
        """See `Tokenizer.control_names`."""
        return (END_OF_TEXT,)

    def _bytes_of(self, token: int) -> bytes:
        """One byte, or the text of any other id: the vocabulary of a model may be larger than 257."""
        if token < 256:
            return bytes([token])
        return (END_OF_TEXT if token == self.EOT_ID else "\ufffd").encode()


class FileTokenizer:
    """A tokenizer.json of Hugging Face's `tokenizers` library.

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
        """The engine without control tokens.  Raises InputError if text needs one."""
        try:
            return load_engine(without_control_tokens(self.content, self._engine, self.record.eot_id))
        except ControlTokenNeededError as error:
            raise InputError(
                f"the tokenizer cannot encode text: {error}", hints=["name another token with `--eot NAME`"]
            ) from error

    def check_encodes_text(self) -> None:
        """Raises InputError if ordinary text needs a control token."""
        _ = self._text_engine

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`; no tokens are added at the ends.  Raises InputError as `encode_batch` does."""
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """See `Tokenizer.encode_batch`.  Long texts are divided if that cannot change a token.

        Raises InputError if the tokenizer has no id for a part of the text, or only the one that ends documents.
        """
        pieces = [list(pieces_of(text)) if self._is_own else [text] for text in texts]
        ids = iter(self._encode_pieces([piece for own in pieces for piece in own]))
        return [np.concatenate([next(ids) for _ in own]) for own in pieces]

    def _encode_pieces(self, pieces: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each piece, encoded by groups of GROUP_CHARS."""
        ids: list[NDArray[np.uint32]] = []
        try:
            for group in grouped(pieces):
                with _library_errors():
                    encodings = self._text_engine.encode_batch_fast(group, add_special_tokens=False)
                ids += [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        except ValueError as error:
            raise InputError("the tokenizer cannot encode this text", caused_by=[str(error)]) from error
        if any((own == self.record.eot_id).any() for own in ids):
            raise InputError(
                "the tokenizer cannot encode this text: for a part of it, it has only the token"
                f" {self.record.eot_id}, which ends documents"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`; special tokens are included."""
        text: str = self._engine.decode(list(ids), skip_special_tokens=False)
        return text

    def control_names(self) -> tuple[str, ...]:
        """See `Tokenizer.control_names`."""
        end: str = self._engine.id_to_token(self.record.eot_id)
        return tuple(dict.fromkeys([*special_names(self.content), end]))


def pieces_of(text: str, n_chars: int = PIECE_CHARS) -> Iterator[str]:
    """Divide `text` into pieces of at least `n_chars` >= 1, before a space or newline after another character."""
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
    """Group neighbouring pieces, at least `n_chars` in each group but the last."""
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
def _library_errors() -> Iterator[None]:
    """Raise ValueError instead of the plain Exception that `tokenizers` raises."""
    try:
        yield
    except Exception as error:
        raise ValueError(str(error)) from error


def load_engine(content: bytes) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json, without truncation and padding.

    Raises ValueError for any other content.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Engine

    with _library_errors():
        engine = Engine.from_str(content.decode())
    engine.no_truncation()
    engine.no_padding()
    return engine


def vocabulary_size(engine: Any) -> int:
    """The largest id plus one (ids may have gaps)."""
    return 1 + max(engine.get_vocab(with_added_tokens=True).values(), default=-1)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    report: ReportProgress = no_report,
    on_long_word: Callable[[int], None] = lambda _: None,
) -> FileTokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2) on `texts`.

    on_long_word: called with the length of each word that is cut for training (`bpe_training.WORD_CHARS`).
    The same texts in the same order give the same file.  A small corpus may give a smaller vocabulary.
    Raises RunFailedError if the training process is killed.
    """
    pieces = (piece for text in texts for piece in cut_long_words(text, on_long_word))
    content = train_in_process(pieces, vocab_size, report)
    eot_id = load_engine(content).token_to_id(END_OF_TEXT)
    assert eot_id is not None
    return FileTokenizer(content, "bpe", eot_id)


def user_tokenizer(path: Path, eot: str | None) -> FileTokenizer:
    """Load a tokenizer.json of the user's.

    eot: the name of the token that ends a document; by default the first of END_NAMES that exists.
    Raises InputError if it is not a tokenizer.json, has no such token, states an id that the library would change, or
    needs a control token for ordinary text.
    """
    try:
        content = read_regular_file(path)
        engine = load_engine(content)
    except OSError as error:
        raise InputError(
            f"cannot read the tokenizer {path}: {error.strerror}",
            hints=["set --tokenizer to `byte`, `bpe`, or the path of a tokenizer.json"],
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not a tokenizer.json of Hugging Face's tokenizers", caused_by=[str(error)]
        ) from error
    if not 1 <= vocabulary_size(engine) <= LARGEST_VOCABULARY:
        raise InputError(
            f"the vocabulary of {path} must have 1 to {LARGEST_VOCABULARY:,} tokens, got {vocabulary_size(engine):,}"
        )
    _refuse_renumbered(content, engine, path)
    tokenizer = FileTokenizer(content, "file", _end_id(engine, path, eot))
    tokenizer.check_encodes_text()
    return tokenizer


def _refuse_renumbered(content: bytes, engine: Any, path: Path) -> None:
    """Refuse added tokens whose id in the library differs from the one in the file."""
    wrong = renumbered(content, engine)
    if not wrong:
        return
    token, given = wrong[0]
    more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
    raise InputError(
        f"the id of the added token {token.content!r} must be {given}, got {token.id}{more}: the tokenizers library"
        " numbers added tokens after the model's vocabulary, without gaps",
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
            f"the tokenizer {path} has no token {eot!r}", hints=["name one of its tokens with `--eot NAME`"]
        )
    raise InputError(
        f"the tokenizer {path} has none of the usual tokens that end a document: {', '.join(END_NAMES)}",
        hints=["name the one to use with `--eot NAME`"],
    )


def load_tokenizer(directory: Path, manifest: DatasetManifest) -> Tokenizer:
    """Load the tokenizer of a dataset directory.  Raises InputError if it is not the one that the manifest records."""
    record = manifest.tokenizer
    if record.file is None:
        tokenizer: Tokenizer = ByteTokenizer()
        path = directory
    else:
        path = directory / record.file
        tokenizer = _load_file(path, record)
    if replace(tokenizer.record, file=record.file) != record:
        raise InputError("the tokenizer must be the one that dataset.json records", where=str(path))
    return tokenizer


def _load_file(path: Path, record: TokenizerRecord) -> FileTokenizer:
    hints = [COPY_HINT]
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise InputError(f"cannot read the tokenizer {path}: {error.strerror}", hints=hints) from error
    found = hashlib.sha256(content).hexdigest()
    if found != record.sha256:
        raise InputError(
            f"{path.name} must have the sha256 that dataset.json states",
            where=str(path),
            caused_by=[f"expected sha256 {record.sha256}", f"found    sha256 {found}"],
            hints=hints,
        )
    try:
        return FileTokenizer(content, record.kind, record.eot_id)
    except ValueError as error:
        raise InputError(f"{path} is not a tokenizer.json", caused_by=[str(error)]) from error
