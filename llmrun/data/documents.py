"""Reads the documents of a corpus: `.txt` files of UTF-8, one document each, in a fixed order (docs/data-format.md)."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmrun.data.input_files import InputFiles, find_files
from llmrun.errors import InputError
from llmrun.storage.regular_file import read_regular_file
from llmrun.text import counted, cut

SHOWN_PROBLEMS = 10
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_OTHER_ENCODINGS: Mapping[bytes, str] = {
    b"\xff\xfe\0\0": "UTF-32LE",
    b"\0\0\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
"""Byte-order marks of other encodings, longer ones first."""

_BINARY: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "zstandard data",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"RIFF": "RIFF data (WebP, WAV or AVI)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"GGUF": "a GGUF file",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
"""First bytes of known binary formats.  Only for the error message; the test for text is UTF-8 without NUL."""

_WRITTEN_IN_ASCII: Mapping[bytes, str] = {b"%PDF-": "a PDF document", b"{\\rtf": "an RTF document"}
"""Formats that can be valid UTF-8 and still are not text."""

_TAR_AT, _TAR = 257, b"ustar"


class ReportProgress(Protocol):
    """Receives the progress of a stage."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "bytes", /) -> None:
        """`done` of `total` units of `stage` are finished; bytes are bytes of text."""


def no_report(_stage: str, _done: int, _total: int, _unit: str = "bytes", /) -> None:
    """Ignores progress."""


@dataclass(frozen=True)
class Document:
    """One file of text.

    name: its path relative to the input directory, or its own name; always printable UTF-8.
    bytes, sha256: of its text, without a byte-order mark.  file_sha256: of the whole file.
    """

    path: Path
    name: str
    bytes: int
    sha256: str
    file_sha256: str


@dataclass(frozen=True)
class Corpus:
    """The documents in order, without empty ones.

    n_empty, n_identical: documents without text; documents with the text of an earlier one (kept).
    n_marks, n_crlf: documents with a byte-order mark; documents with CRLF line ends.
    left_out, endings: as in `InputFiles`.
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
    """A file name as one line of UTF-8: other bytes and control characters are escaped."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def read_corpus(
    inputs: Sequence[Path], report: ReportProgress = no_report, out: Path | None = None
) -> Corpus:
    """Read every document once, for its size and sha256, and check that it is text.

    out: a directory that is not searched.
    Raises one InputError for all files that cannot be read or are not text.
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
        raise InputError(f"the input contains no text: all {counted(corpus.n_empty, 'document')} are empty")
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
        """The corpus of the documents read so far."""
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
    """The text of a document.  Raises InputError if it changed since the corpus was read."""
    content = read_bytes(document.path)
    if hashlib.sha256(content).hexdigest() != document.file_sha256:
        raise InputError(f"{document.path} changed while the dataset was being prepared")
    return without_mark(content).decode()


def read_bytes(path: Path) -> bytes:
    """The content of a file.  Raises InputError if it cannot be read."""
    try:
        return read_regular_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def check_text(path: Path, content: bytes) -> None:
    """Raises InputError if a content is not text, naming what it is or the offset of the first wrong byte."""
    wrong = why_not_text(content)
    if wrong is None:
        return
    convert = (
        f"convert it, for example with `iconv -f {wrong.encoding} -t UTF-8`, or remove it from the input"
    )
    hint = convert if wrong.encoding else "extract its text, or remove it from the input"
    raise InputError(f"{path} {wrong.reason}", hints=[hint])


def _joined(problems: list[InputError], n_files: int) -> InputError:
    """One error for all unusable files."""
    if len(problems) == 1:
        return problems[0]
    shown = cut([problem.message for problem in problems], SHOWN_PROBLEMS)
    hints = dict.fromkeys(hint for problem in problems for hint in problem.hints)
    return InputError(
        f"{len(problems):,} of {counted(n_files, 'document')} cannot be used",
        caused_by=shown,
        hints=list(hints),
    )


@dataclass(frozen=True)
class NotText:
    """Why a content is not text.  encoding: the argument of `iconv -f` that would convert it, if any."""

    reason: str
    encoding: str | None = None


def without_mark(content: bytes) -> bytes:
    """The content without a leading byte-order mark of UTF-8."""
    return content.removeprefix(BYTE_ORDER_MARK)


def why_not_text(content: bytes) -> NotText | None:
    """None for text, which is UTF-8 without NUL and not a format such as PDF."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            return NotText(f"is {encoding}, not UTF-8", encoding[:6])
    for beginning, kind in _WRITTEN_IN_ASCII.items():
        if content.startswith(beginning):
            return NotText(f"is {kind}, not text")
    wrong = _first_wrong_byte(content)
    if wrong is None:
        return None
    unmarked = _encoding_without_mark(content)
    if unmarked is not None:
        return NotText(f"is not UTF-8 but probably {unmarked} without a byte-order mark", unmarked)
    return _named(content) or wrong


def _first_wrong_byte(content: bytes) -> NotText | None:
    """The first byte that is not allowed in text."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        return NotText(f"is not UTF-8: {byte}", "ISO-8859-1")
    at = content.find(b"\0")
    return None if at < 0 else NotText(f"is not text: NUL at offset {at:,}")


def _named(content: bytes) -> NotText | None:
    """The format of a binary file, if its first bytes show it."""
    if content[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return NotText("is a tar archive, not text")
    for beginning, kind in _BINARY.items():
        if content.startswith(beginning):
            return NotText(f"is {kind}, not text")
    return None


def _encoding_without_mark(content: bytes) -> str | None:
    """The encoding whose ASCII characters have NUL bytes at the places where `content` has them."""
    sample = content[:4096]
    sample = sample[: len(sample) // 4 * 4]
    if not sample:
        return None
    share = [sample[i::4].count(0) / len(sample[i::4]) for i in range(4)]
    patterns = {
        "UTF-32LE": (0, 1, 1, 1),
        "UTF-32BE": (1, 1, 1, 0),
        "UTF-16LE": (0, 1, 0, 1),
        "UTF-16BE": (1, 0, 1, 0),
    }
    for encoding, pattern in patterns.items():
        if all((part > 0.5) == bool(expected) for part, expected in zip(share, pattern, strict=True)):
            return encoding
    return None
