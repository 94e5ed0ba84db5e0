"""The documents of a corpus: `.txt` files, one document each, in a fixed order."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmrun.data.input_files import InputFiles, find_files
from llmrun.data.regular_file import read_regular_file
from llmrun.data.text_rules import BYTE_ORDER_MARK, why_not_text, without_mark
from llmrun.errors import InputError
from llmrun.text import counted, cut

SHOWN_PROBLEMS = 10


class Report(Protocol):
    """Takes reports of progress."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "bytes", /) -> None:
        """`done` of `total` units of `stage` are done; bytes are bytes of text."""


def silent(_stage: str, _done: int, _total: int, _unit: str = "bytes", /) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Document:
    """One file of text.

    name: its path below the directory it was found in, or its own name; always printable UTF-8.
    bytes, sha256: of its text, without a byte-order mark.  file_sha256: of the whole file.
    """

    path: Path
    name: str
    bytes: int
    sha256: str
    file_sha256: str


@dataclass(frozen=True)
class Corpus:
    """The documents in order, empty ones left out.

    n_empty, n_identical: documents without text, and those whose text came before (kept).
    n_marks, n_crlf: documents that began with a byte-order mark, and those with CRLF line ends.
    left_out, endings: files that were left out by a rule of `text_rules`, by its key and by their ending.
    """

    documents: tuple[Document, ...]
    n_empty: int
    n_identical: int
    n_marks: int = 0
    n_crlf: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    endings: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(document.bytes for document in self.documents)


def printable_name(name: str) -> str:
    """A file name as one line of UTF-8: bytes that are not, and control characters, as escapes."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def read_corpus(inputs: Sequence[Path], report: Report = silent, out: Path | None = None) -> Corpus:
    """Read every document once: its size, its sha256, whether it is text.

    out: a directory that is not searched.
    Raises InputError naming all files that cannot be read or are not text.
    """
    found = find_files(inputs, out)
    reading = _Reading(found)
    problems: list[InputError] = []
    for path, name in found.files:
        try:
            reading.add(Path(path), printable_name(name))
        except InputError as problem:
            problems.append(problem)
        report("reading", reading.n_bytes, max(found.n_bytes, reading.n_bytes))
    if problems:
        raise _joined(problems, len(found.files))
    corpus = reading.corpus()
    if not corpus.documents:
        raise InputError(f"the input has no text: {counted(corpus.n_empty, 'document')}, all empty")
    return corpus


class _Reading:
    """Collects documents one by one."""

    def __init__(self, found: InputFiles) -> None:
        self.n_bytes = 0
        self._found = found
        self._documents: list[Document] = []
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()

    def add(self, path: Path, name: str) -> None:
        """Read one file.  Raises InputError."""
        content = read_bytes(path)
        check_text(path, content)
        text = without_mark(content)
        self.n_bytes += len(content)
        self._counts["marks"] += content.startswith(BYTE_ORDER_MARK)
        if not text:
            self._counts["empty"] += 1
            return
        sha256 = hashlib.sha256(text).hexdigest()
        whole = sha256 if len(text) == len(content) else hashlib.sha256(content).hexdigest()
        self._counts["identical"] += sha256 in self._seen
        self._counts["crlf"] += b"\r\n" in text
        self._seen.add(sha256)
        self._documents.append(Document(path, name, len(text), sha256, whole))

    def corpus(self) -> Corpus:
        """What was read."""
        counts = self._counts
        return Corpus(
            tuple(self._documents),
            n_empty=counts["empty"],
            n_identical=counts["identical"],
            n_marks=counts["marks"],
            n_crlf=counts["crlf"],
            left_out=dict(self._found.left_out),
            endings=dict(self._found.endings),
        )


def read_text(document: Document) -> str:
    """The text of a document, which must be what it was when the corpus was read.  Raises InputError."""
    content = read_bytes(document.path)
    if hashlib.sha256(content).hexdigest() != document.file_sha256:
        raise InputError(f"{document.path} changed while it was being prepared")
    return without_mark(content).decode()


def read_bytes(path: Path) -> bytes:
    """The content of a file.  Raises InputError if it cannot be read."""
    try:
        return read_regular_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def check_text(path: Path, content: bytes) -> None:
    """Raises InputError for a content that is not text, with what it is or the offset of the first wrong byte."""
    wrong = why_not_text(content)
    if wrong is None:
        return
    convert = f"convert it, for example with `iconv -f {wrong.encoding} -t UTF-8`, or leave it out"
    hint = convert if wrong.encoding else "leave it out, or extract its text"
    raise InputError(f"{path} {wrong.reason}", hints=[hint])


def _joined(problems: list[InputError], n_files: int) -> InputError:
    """One error for all files that cannot be used."""
    if len(problems) == 1:
        return problems[0]
    shown = cut([problem.message for problem in problems], SHOWN_PROBLEMS)
    hints = dict.fromkeys(hint for problem in problems for hint in problem.hints)
    return InputError(
        f"{len(problems):,} of {counted(n_files, 'document')} cannot be used",
        caused_by=shown,
        hints=list(hints),
    )
