"""Finds the input files: in a fixed order, each file once, and counts everything that is left out (docs/data-format.md)."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.errors import InputError

SUFFIX = ".txt"

LEFT_OUT = {
    "hidden": "hidden names",
    "leftovers": "temporary files of editors and desktops",
    "other_endings": "other endings",
    "directory_links": "links to directories",
    "broken_links": "broken links",
    "special_files": "pipes, sockets and devices",
    "duplicates": "files given twice",
}
"""Why a name in a directory is left out: the key in the recipe, and the text on the screen."""

_LEFTOVER = re.compile(
    r".*~|~\$.*|#.*#|.*\.sw[a-p]|thumbs\.db|desktop\.ini"
    r"|__macosx|@eadir|\$recycle\.bin|system volume information|lost\+found",
    re.IGNORECASE | re.DOTALL,
)

ACCEPTED = "give files that end in .txt, or directories that contain some"
SHOWN_ENDINGS = 5

Identity = tuple[int, int]
"""Device and inode: two names with the same identity are one file."""


@dataclass
class InputFiles:
    """The files in order, as (path, name), and how many were left out.

    left_out: number of names by key of LEFT_OUT.  endings: of the "other_endings", number by ending.
    n_bytes:  of all files, as the file system states them.
    """

    files: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0


@dataclass(frozen=True)
class _Entry:
    """A file that may be a document.  name: its path relative to the input, or its own name."""

    path: str
    name: str
    identity: Identity
    n_bytes: int


def find_files(inputs: Sequence[Path], out: Path | None = None) -> InputFiles:
    """The documents of the inputs, in the order given; files of a directory are sorted by the bytes of their names.

    out: a directory that is not searched.  Links to directories are not followed.
    Raises InputError for an input that does not exist, is not `.txt`, contains no document, or cannot be read.
    """
    found = InputFiles()
    excluded = None if out is None else os.path.realpath(out)
    seen: set[Identity] = set()
    for given in inputs:
        try:
            entries = _entries_of(given, excluded, found)
        except OSError as error:
            raise InputError(f"cannot read {error.filename or given}: {error.strerror}") from error
        for entry in entries:
            if entry.identity in seen:
                found.left_out["duplicates"] += 1
                continue
            seen.add(entry.identity)
            found.files.append((entry.path, entry.name))
            found.n_bytes += entry.n_bytes
    return found


def _entries_of(given: Path, excluded: str | None, found: InputFiles) -> list[_Entry]:
    """The files of one input.  Raises InputError, OSError."""
    try:
        state = given.stat()
    except FileNotFoundError as error:
        message = "is a broken link" if given.is_symlink() else "does not exist"
        raise InputError(f"the input {given} {message}", hints=[ACCEPTED]) from error
    if stat.S_ISDIR(state.st_mode):
        before = Counter(found.left_out)
        entries = sorted(_walk(str(given), excluded, found), key=lambda entry: os.fsencode(entry.name))
        if not entries:
            counts = {key: n - before[key] for key, n in found.left_out.items() if n > before[key]}
            causes = [f"left out: {left_out_text(counts, {})}"] if counts else []
            raise InputError(
                f"the directory {given} contains no .txt file", caused_by=causes, hints=[ACCEPTED]
            )
        return entries
    if not has_suffix(given.name):
        raise InputError(f"the input must end in .txt, got {given}", hints=[ACCEPTED])
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"the input must be a regular file, got {given}", hints=[ACCEPTED])
    return [_Entry(str(given), given.name, (state.st_dev, state.st_ino), state.st_size)]


def _walk(root: str, excluded: str | None, found: InputFiles) -> Iterator[_Entry]:
    """Yield the files below a directory that may be documents; count the others in `found`.  Raises OSError."""
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                kind = _kind_of(entry)
                if kind == "directory":
                    if os.path.realpath(entry.path) != excluded:
                        pending.append((entry.path, f"{name}/"))
                elif kind is not None:
                    found.left_out[kind] += 1
                    if kind == "other_endings":
                        found.endings[Path(entry.name).suffix or "none"] += 1
                else:
                    state = entry.stat()
                    yield _Entry(entry.path, name, (state.st_dev, state.st_ino), state.st_size)


def _kind_of(entry: os.DirEntry[str]) -> str | None:
    """None for a document, "directory" for one to search, else the key of LEFT_OUT that says why it is left out."""
    ignored = ignored_kind(entry.name)
    if ignored is not None:
        return ignored
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    if entry.is_symlink():
        try:
            if stat.S_ISDIR(entry.stat().st_mode):
                return "directory_links"
        except OSError:
            return "broken_links"
    if not has_suffix(entry.name):
        return "other_endings"
    return None if entry.is_file() else "special_files"


def left_out_text(left_out: Mapping[str, int], endings: Mapping[str, int]) -> str:
    """The counts as one line for the screen."""
    parts = []
    for key, reason in LEFT_OUT.items():
        if not left_out.get(key):
            continue
        part = f"{reason} {left_out[key]:,}"
        if key == "other_endings" and endings:
            common = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
            shown = [f"{ending} {count:,}" for ending, count in common[:SHOWN_ENDINGS]]
            part += f" ({', '.join([*shown, '…'] if len(common) > SHOWN_ENDINGS else shown)})"
        parts.append(part)
    return ", ".join(parts)


def ignored_kind(name: str) -> str | None:
    """Why a name that is found in a directory is never a document, as a key of LEFT_OUT; None if it may be one.

    Not applied to names that the user gives.
    """
    if name.startswith("."):
        return "hidden"
    return "leftovers" if _LEFTOVER.fullmatch(name) else None


def has_suffix(name: str) -> bool:
    """Whether a name ends in `.txt`, ignoring case."""
    return name.lower().endswith(SUFFIX)
