"""The documents of a corpus: `.txt` files, one document each, in a fixed order."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import InputError

SUFFIX = ".txt"
SHOWN_PROBLEMS = 10

Report = Callable[[str, int, int], None]
"""Called as report(what is being done, bytes of text done, bytes in all)."""


def silent(_what: str, _done: int, _total: int) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Document:
    """One file of text.

    name: its path below the directory it was found in, or its own name; always printable UTF-8.
    bytes, sha256: of its content.
    """

    path: Path
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """The documents in order, empty ones left out.  n_identical: those whose text came before."""

    documents: tuple[Document, ...]
    n_empty: int
    n_identical: int

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(document.bytes for document in self.documents)


def find_files(inputs: Sequence[Path]) -> list[tuple[Path, str]]:
    """(path, name) of every `.txt` file: inputs in the order given, a directory's sorted by name.

    Directories are searched recursively; symbolic links to directories are not followed.
    Raises InputError for an input that does not exist, has another suffix, or holds no `.txt` file.
    """
    return [found for given in inputs for found in _files_of(given)]


def _files_of(given: Path) -> list[tuple[Path, str]]:
    """The files of one input."""
    accepted = "accepted are files that end in .txt, and directories that hold some"
    if given.is_dir():
        found = sorted(_walk(given), key=lambda pair: os.fsencode(pair[1]))
        if not found:
            raise InputError(f"the directory {given} holds no .txt file", hints=[accepted])
        return [(path, printable_name(name)) for path, name in found]
    if not os.path.lexists(given):
        raise InputError(f"the input {given} does not exist", hints=[accepted])
    if given.suffix.lower() != SUFFIX:
        raise InputError(f"the input {given} does not end in .txt", hints=[accepted])
    if not given.is_file():
        raise InputError(f"the input {given} is not a regular file", hints=[accepted])
    return [(given, printable_name(given.name))]


def _walk(root: Path) -> Iterator[tuple[Path, str]]:
    """The regular `.txt` files below a directory, with their relative names."""
    for folder, _, names in os.walk(root, onerror=_unreadable):
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() == SUFFIX and path.is_file():
                yield path, path.relative_to(root).as_posix()


def _unreadable(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def printable_name(name: str) -> str:
    """A file name as one line of UTF-8: bytes that are not, and control characters, as escapes."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def read_corpus(inputs: Sequence[Path], report: Report = silent) -> Corpus:
    """Read every document once: its size, its sha256, whether it is UTF-8.

    Raises InputError naming all files that cannot be read or are not UTF-8, with the byte's offset.
    """
    files = find_files(inputs)
    total = sum(_size_of(path) for path, _ in files)
    documents: list[Document] = []
    problems: list[InputError] = []
    seen: set[str] = set()
    done = n_identical = 0
    for path, name in files:
        try:
            content = read_bytes(path)
            decode(path, content)
        except InputError as problem:
            problems.append(problem)
            continue
        document = Document(path, name, len(content), hashlib.sha256(content).hexdigest())
        n_identical += document.bytes > 0 and document.sha256 in seen
        seen.add(document.sha256)
        documents.append(document)
        done += len(content)
        report("reading", done, total)
    if problems:
        raise _joined(problems, len(files))
    kept = tuple(document for document in documents if document.bytes)
    if not kept:
        raise InputError(f"the input has no text: {_counted(len(documents), 'document')}, all empty")
    return Corpus(kept, len(documents) - len(kept), n_identical)


def read_text(document: Document) -> str:
    """The text of a document, which must be what it was when the corpus was read.  Raises InputError."""
    content = read_bytes(document.path)
    if hashlib.sha256(content).hexdigest() != document.sha256:
        raise InputError(f"{document.path} changed while it was being prepared")
    return decode(document.path, content)


def read_bytes(path: Path) -> bytes:
    """The content of a file.  Raises InputError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def decode(path: Path, content: bytes) -> str:
    """UTF-8 text.  Raises InputError with the offset of the first wrong byte."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start:,}",
            hints=["convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`, or leave it out"],
        ) from error


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _joined(problems: list[InputError], n_files: int) -> InputError:
    """One error for all files that cannot be used."""
    if len(problems) == 1:
        return problems[0]
    shown = [problem.says for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"… and {len(problems) - SHOWN_PROBLEMS:,} more")
    hints = dict.fromkeys(hint for problem in problems for hint in problem.hints)
    return InputError(
        f"{len(problems):,} of {_counted(n_files, 'document')} cannot be used",
        caused_by=shown,
        hints=list(hints),
    )
