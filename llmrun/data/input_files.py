"""Finds the input files: in a fixed order, each file once, and counts everything that is left out (docs/data-format.md)."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from llmrun.data.formats import NAMED, format_of
from llmrun.errors import InputError

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

ACCEPTED = (
    f"give files that end in {NAMED}, directories that contain some, or patterns such as 'texts/*.jsonl'"
)
SHOWN_ENDINGS = 5

_WILDCARD = re.compile(r"[*?\[]")

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


@dataclass(frozen=True)
class _Pattern:
    """Which names below a directory are meant.

    parts: one for each part of a path; `*`, `?` and `[…]` match within a part, `**` any number of directories.
    """

    parts: tuple[str, ...]

    def matches(self, name: str) -> bool:
        """Whether the relative name of a file is meant."""
        return _parts_match(name.split("/"), self.parts)

    def may_hold(self, directory: str) -> bool:
        """Whether a directory of this relative name can hold files that are meant."""
        given = directory.split("/")
        fixed = self.parts[: self.parts.index("**")] if "**" in self.parts else self.parts[:-1]
        if len(given) > len(fixed) and "**" not in self.parts:
            return False
        return all(map(fnmatchcase, given, fixed))


_EVERYTHING = _Pattern(("**", "*"))


def _parts_match(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match the parts of a pattern."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_parts_match(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _parts_match(names[1:], patterns[1:])


def find_files(inputs: Sequence[Path], out: Path | None = None) -> InputFiles:
    """The files of the inputs, in the order given; those of a directory or pattern are sorted by the bytes of their names.

    out: a directory that is not searched.  Links to directories are not followed.
    Raises InputError for an input that does not exist, has no known format, contains no document or files of several
    formats, or cannot be read.
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
        if _WILDCARD.search(str(given)) and not given.is_symlink():
            return _searched(given, *_pattern_of(given), excluded, found)
        message = "is a broken link" if given.is_symlink() else "does not exist"
        raise InputError(f"the input {given} {message}", hints=[ACCEPTED]) from error
    if stat.S_ISDIR(state.st_mode):
        return _searched(given, given, _EVERYTHING, excluded, found)
    if format_of(given.name) is None:
        raise InputError(f"the input must end in {NAMED}, got {given}", hints=[ACCEPTED])
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"the input must be a regular file, got {given}", hints=[ACCEPTED])
    return [_Entry(str(given), given.name, (state.st_dev, state.st_ino), state.st_size)]


def _searched(
    given: Path, base: Path, wanted: _Pattern, excluded: str | None, found: InputFiles
) -> list[_Entry]:
    """The files below `base` whose relative names are wanted, sorted, of one format.  Raises InputError, OSError."""
    before = Counter(found.left_out)
    entries = sorted(_walk(str(base), wanted, excluded, found), key=lambda entry: os.fsencode(entry.name))
    if not entries:
        counts = {key: n - before[key] for key, n in found.left_out.items() if n > before[key]}
        causes = [f"left out: {left_out_text(counts, {})}"] if counts else []
        what = f"the directory {given} contains" if given is base else f"the pattern {given} matches"
        raise InputError(f"{what} no file that ends in {NAMED}", caused_by=causes, hints=[ACCEPTED])
    return _of_one_kind(given, base, entries, found)


def _of_one_kind(given: Path, base: Path, entries: list[_Entry], found: InputFiles) -> list[_Entry]:
    """The entries without Markdown files beside others, which describe a corpus more often than they belong to it.

    Raises InputError for several other formats: no rule could tell which of them are meant.
    """
    kinds = Counter(form.kind for entry in entries if (form := format_of(entry.name)) is not None)
    if len(kinds) > 1 and "markdown" in kinds:
        beside = [entry for entry in entries if entry.name.lower().endswith(".md")]
        found.left_out["other_endings"] += len(beside)
        found.endings.update(Path(entry.name).suffix for entry in beside)
        entries = [entry for entry in entries if not entry.name.lower().endswith(".md")]
        del kinds["markdown"]
    if len(kinds) > 1:
        counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
        raise InputError(
            f"the files of {given} must have one format, got {counts}",
            hints=[f"give one pattern for each format that is meant, such as '{base}/**/*.parquet'"],
        )
    return entries


def _pattern_of(given: Path) -> tuple[Path, _Pattern]:
    """The directory that a pattern searches, and the pattern of names relative to it."""
    parts = given.parts
    first = next(number for number, part in enumerate(parts) if _WILDCARD.search(part))
    wanted = (*parts[first:], "*") if parts[-1] == "**" else parts[first:]
    return Path(*parts[:first]), _Pattern(wanted)


def _walk(root: str, wanted: _Pattern, excluded: str | None, found: InputFiles) -> Iterator[_Entry]:
    """Yield the files below a directory that may be documents; count the others in `found`.  Raises OSError.

    Names that do not match are neither taken nor counted.
    """
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                kind = _kind_of(entry)
                if kind == "directory":
                    if wanted.may_hold(name) and os.path.realpath(entry.path) != excluded:
                        pending.append((entry.path, f"{name}/"))
                elif not wanted.matches(name):
                    continue
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
    if format_of(entry.name) is None:
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
