"""Reads the documents of a corpus, one by one in a fixed order (docs/data-format.md, Input files).

A corpus is read twice: once to check it and to take sizes and hashes (`read_corpus`), and again for its text
(`Corpus.read`).  Texts are never held together; 16 bytes a document are.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from llmrun.data.columnar import column_rows
from llmrun.data.formats import Format, format_of
from llmrun.data.input_files import InputFiles, find_files
from llmrun.data.json_lines import json_rows
from llmrun.data.rows import DEFAULT_READING, BadRow, MissingFieldError, ReadOptions, Row, UnusableFileError
from llmrun.data.text_rules import (
    looks_like_html,
    not_this_format,
    why_not_text,
    without_mark,
)
from llmrun.errors import Hint, InputError
from llmrun.storage.durable import sha256_of
from llmrun.storage.regular_file import open_regular, read_regular_file
from llmrun.text import counted, cut

SHOWN_PROBLEMS = 10
BEGINNING_BYTES = 512
REPORT_ROWS = 1000

SKIP_HINT = Hint.setting("`--on-bad-row skip` leaves such rows out and counts them", "--on-bad-row")
LONG_HINT = Hint.setting(
    "divide it into several documents, or raise the limit with `--max-document BYTES`", "--max-document"
)


class ReportProgress(Protocol):
    """Receives the progress of a stage."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "bytes", /) -> None:
        """`done` of `total` units of `stage` are finished; bytes are bytes of text."""


def no_report(_stage: str, _done: int, _total: int, _unit: str = "bytes", /) -> None:
    """Ignores progress."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document with its text.

    name:     its file's, with the row if the file has rows; always printable UTF-8.
    bytes:    of its text in UTF-8, without a byte-order mark.
    position: the first 8 bytes of the text's sha256, as a big-endian number.
    row_id:   its id, if one was asked for.
    """

    name: str
    text: str
    bytes: int
    position: int
    row_id: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One input file.

    name:      its path relative to the input directory, or its own name; always printable UTF-8.
    sha256:    of the whole file, and documents: how many with text it has; "" and 0 before it was read.
    """

    path: Path
    name: str
    format: Format
    sha256: str = ""
    documents: int = 0


@dataclass(frozen=True)
class Corpus:
    """The documents in order, without empty ones.

    files:    those with at least one document.
    sizes:    bytes of text of each document, uint64 [n].
    positions: the first 8 bytes of the sha256 of each, uint64 [n].
    counts:   how often each rule applied, by key of `COUNTS`; bad rows by `bad_` and their problem.
    first:    where it applied first, for some of the keys.
    left_out, endings: as in `InputFiles`.
    """

    files: tuple[SourceFile, ...]
    sizes: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    options: ReadOptions = DEFAULT_READING
    counts: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    endings: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.sizes)

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.sizes.sum())

    @property
    def n_identical(self) -> int:
        """Documents with the text of an earlier one, which are kept."""
        return len(self.positions) - len(np.unique(self.positions))

    @property
    def has_rows(self) -> bool:
        """Whether any file has rows."""
        return any(file.format.has_rows for file in self.files)

    def read(self) -> Iterator[Document]:
        """Yield the documents again, with their text.  Raises InputError if a file changed since the corpus was read."""
        start = 0
        for file in self.files:
            expected = self.positions[start : start + file.documents]
            start += file.documents
            n_read = 0
            for document in _read_again(file, self.options):
                if n_read == len(expected) or document.position != int(expected[n_read]):
                    raise _changed(file)
                n_read += 1
                yield document
            if n_read != len(expected):
                raise _changed(file)


def _read_again(file: SourceFile, options: ReadOptions) -> Iterator[Document]:
    """The documents of a file that was sound when the corpus was read.  Raises InputError."""
    try:
        yield from _Reader(options).documents(file)
    except InputError as error:
        raise _changed(file, error.message) from error


def _changed(file: SourceFile, *causes: str) -> InputError:
    return InputError(f"{file.path} changed while the dataset was being prepared", caused_by=causes)


def printable_name(name: str) -> str:
    """A file name as one line of UTF-8: other bytes and control characters are escaped."""
    if name.isascii() and name.isprintable():
        return name
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def read_corpus(
    inputs: Sequence[Path],
    report: ReportProgress = no_report,
    out: Path | None = None,
    options: ReadOptions = DEFAULT_READING,
) -> Corpus:
    """Read every document once, for its size and sha256, and check that it is text.

    out: a directory that is not searched.
    Raises one InputError for all files that are not what their names say, cannot be read or are not text; the first
    bad row of a file with rows ends reading, unless such rows are skipped.
    """
    found = find_files(inputs, out)
    files = [_source_file(path, name) for path, name in found.files]
    problems = [problem for file in files if (problem := _other_format(file)) is not None]
    if problems:
        raise _joined(problems, len(files))
    corpus = _read_all(files, found, options, report)
    if not corpus.n_documents:
        raise _no_text(corpus)
    return corpus


def _no_text(corpus: Corpus) -> InputError:
    """The error for an input without any text."""
    empty = corpus.counts.get("empty", 0) + corpus.counts.get("missing_text", 0)
    n_bad = sum(count for key, count in corpus.counts.items() if key.startswith("bad_"))
    if not n_bad:
        return InputError(f"the input contains no text: all {counted(empty, 'document')} are empty")
    first = next(name for key, name in corpus.first.items() if key.startswith("bad_"))
    return InputError(
        f"the input contains no text: {counted(n_bad, 'row')} cannot be used, {counted(empty, 'document')} empty",
        caused_by=[f"the first such row is {first}"],
        hints=[Hint.setting("`--on-bad-row fail` names what is wrong with it", "--on-bad-row")],
    )


def _source_file(path: str, name: str) -> SourceFile:
    found = format_of(path)
    assert found is not None
    return SourceFile(Path(path), printable_name(name), found)


def _read_all(
    files: Sequence[SourceFile], found: InputFiles, options: ReadOptions, report: ReportProgress
) -> Corpus:
    """Read all files.  Raises InputError as `read_corpus` does."""
    reader = _Reader(options, report, found.n_bytes)
    sizes, positions, ids = array("Q"), array("Q"), _Ids()
    with_text: list[SourceFile] = []
    problems: list[InputError] = []
    for file in files:
        before = len(sizes)
        try:
            for document in reader.documents(file):
                sizes.append(document.bytes)
                positions.append(document.position)
                reader.counts["repeated_ids"] += ids.is_repeated(document.row_id)
            if len(sizes) > before:
                sha256 = reader.sha256 or _hash_of(file)
                with_text.append(replace(file, sha256=sha256, documents=len(sizes) - before))
        except InputError as problem:
            problems.append(problem)
            if file.format.has_rows:
                break
    if problems:
        raise _joined(problems, len(files))
    return Corpus(
        tuple(with_text),
        np.frombuffer(sizes, dtype=np.uint64),
        np.frombuffer(positions, dtype=np.uint64),
        options,
        reader.counts,
        reader.first,
        dict(found.left_out),
        dict(found.endings),
    )


class _Ids:
    """Remembers ids by 8 bytes of their sha256."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def is_repeated(self, row_id: str | None) -> bool:
        """Whether an id came before."""
        if row_id is None:
            return False
        key = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:8]
        before = len(self._seen)
        self._seen.add(key)
        return len(self._seen) == before


class _Reader:
    """Reads the documents of files, and counts how often each rule applied.

    sha256: of the last file, if it has no rows; else "".
    """

    def __init__(self, options: ReadOptions, report: ReportProgress = no_report, n_bytes: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.sha256 = ""
        self._options = options
        self._report = report
        self._n_bytes = n_bytes
        self._done = 0

    def documents(self, file: SourceFile) -> Iterator[Document]:
        """Yield the documents of one file that have text.  Raises InputError."""
        self.sha256 = ""
        if file.format.has_rows:
            yield from self._documents_of_rows(file)
        else:
            yield from self._document_of_file(file)
        self._report("reading", self._done, max(self._n_bytes, self._done))

    def _document_of_file(self, file: SourceFile) -> Iterator[Document]:
        """A whole file as one document."""
        content = _read_bounded(file.path, self._options.max_document)
        self._done += len(content)
        check_text(file.path, content)
        if looks_like_html(content):
            self._count("html", file.name)
        document = self._document(content, file.name, None)
        if document is not None:
            if document.bytes < len(content):
                self.sha256 = hashlib.sha256(content).hexdigest()
            yield document

    def _documents_of_rows(self, file: SourceFile) -> Iterator[Document]:
        """The rows of a file as documents."""
        n_rows, n_missing, fields = 0, 0, tuple[str, ...]()
        try:
            with _opened(file.path) as content:
                for row in _rows_in(content, file.format, self._options):
                    n_rows += 1
                    if n_rows % REPORT_ROWS == 0 and file.format.kind == "JSON lines":
                        self._report("reading", self._done + content.tell(), self._n_bytes)
                    if isinstance(row, Row) and row.text is None:
                        n_missing, fields = n_missing + 1, fields or row.fields
                        self._count("missing_text", _place(file, row))
                        continue
                    document = self._document_of_row(file, row)
                    if document is not None:
                        yield document
                self._done += content.seek(0, 2)
        except MissingFieldError as error:
            raise _missing_field(f"{file.path} {error}") from error
        except UnusableFileError as error:
            raise InputError(f"{file.path} {error}", hints=["copy or download the file again"]) from error
        if n_rows and n_missing == n_rows:
            has = ", ".join(map(repr, fields[:20]))
            raise _missing_field(
                f"no row of {file.path} has the field {self._options.text_field!r}; it has {has}"
            )
        if not n_rows:
            self._count("files_without_rows", file.name)
        self.sha256 = ""
        self.counts["rows"] += n_rows

    def _document_of_row(self, file: SourceFile, row: Row | BadRow) -> Document | None:
        """The document of one row with text; None if it is empty or a bad row that is skipped.  Raises InputError."""
        bad = _problem_of(row, self._options)
        if bad is None:
            assert isinstance(row, Row)
            assert row.text is not None
            return self._document(row.text, _place(file, row), row.id)
        if self._options.on_bad_row == "skip":
            self._count(f"bad_{bad.problem}", _place(file, row))
            return None
        name = f" (id {printable_name(row.id)})" if isinstance(row, Row) and row.id is not None else ""
        hints = [LONG_HINT, SKIP_HINT] if bad.problem == "too_long" else [SKIP_HINT]
        raise InputError(f"{file.path}, row {row.number:,}{name} {bad.message}", hints=hints)

    def _document(self, content: bytes, name: str, row_id: str | None) -> Document | None:
        """The document of a text; None if it is empty."""
        text = without_mark(content)
        if len(text) < len(content):
            self._count("marks", name)
        if not text:
            self._count("empty", name)
            return None
        if b"\r\n" in text:
            self._count("crlf", name)
        self.sha256 = hashlib.sha256(text).hexdigest()
        return Document(name, text.decode(), len(text), int(self.sha256[:16], 16), row_id)

    def _count(self, key: str, name: str) -> None:
        self.counts[key] += 1
        self.first.setdefault(key, name)


def _place(file: SourceFile, row: Row | BadRow) -> str:
    """Name and row for a person."""
    return f"{file.name}, row {row.number:,}"


def _problem_of(row: Row | BadRow, options: ReadOptions) -> BadRow | None:
    """Why a row cannot be used; None if its text is text."""
    if isinstance(row, BadRow):
        return row
    text = row.text or b""
    if len(text) > options.max_document:
        return BadRow(row.number, "too_long", _too_long(len(text), options.max_document))
    wrong = why_not_text(text)
    return None if wrong is None else BadRow(row.number, "not_text", wrong.reason)


def _too_long(n_bytes: int, most: int) -> str:
    return f"must have at most {most:,} bytes of text, got {n_bytes:,}"


def _rows_in(file: BinaryIO, found: Format, options: ReadOptions) -> Iterator[Row | BadRow]:
    """The rows of an open file."""
    if found.kind in ("Parquet", "Arrow"):
        return column_rows(file, found.kind, options)
    return json_rows(file, found.compression, options)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading.  Raises InputError if it cannot be opened or read."""
    try:
        with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _read_bounded(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes.  Raises InputError."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes <= most:
            return read_regular_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    raise InputError(f"{path} {_too_long(n_bytes, most)}", hints=[LONG_HINT])


def _hash_of(file: SourceFile) -> str:
    try:
        return sha256_of(file.path)
    except OSError as error:
        raise InputError(f"cannot read {file.path}: {error.strerror}") from error


def _other_format(file: SourceFile) -> InputError | None:
    """The error for a file whose first bytes are not those of the format that its name states."""
    try:
        with _opened(file.path) as content:
            reason = not_this_format(content.read(BEGINNING_BYTES), file.format)
    except InputError as error:
        return error
    if reason is None:
        return None
    return InputError(f"{file.path} {reason.message}", hints=[reason.hint])


def _missing_field(message: str) -> InputError:
    """The error for a file without the field of the text."""
    return InputError(
        message, hints=[Hint.setting("name the field of the text with `--text-field NAME`", "--text-field")]
    )


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
        f"{len(problems):,} of {counted(n_files, 'file')} cannot be used",
        caused_by=shown,
        hints=list(hints),
    )
