"""Files that git neither tracks nor ignores: listed by size and time, hashed if a worker imports them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmrun.storage.durable import sha256_of

LISTED_MAX = 10_000
"""Files listed by name; the rest are counted.  Files that workers import are always listed."""


@dataclass(frozen=True)
class Untracked:
    """An untracked file; bytes and modified (UTC) are None if it vanished, sha256 unless a worker imports it."""

    name: str
    bytes: int | None
    modified: str | None
    sha256: str | None = None


@dataclass(frozen=True)
class UntrackedFiles:
    """The files listed, by name, and how many more there are."""

    listed: tuple[Untracked, ...] = ()
    more: int = 0

    def as_json(self) -> dict[str, Any]:
        """The entries for git.json."""
        return {"untracked": [asdict(file) for file in self.listed], "untracked_more": self.more}


def look_at_untracked(
    toplevel: Path, names: Sequence[str], source_files: Mapping[str, str]
) -> UntrackedFiles:
    """Size and time of untracked files, and the content's sha256 of those that a worker imports.

    names: relative to `toplevel`.  source_files: import paths of the files that a worker imports.
    """
    imported = [name for name in names if is_imported(name, source_files)]
    others = [name for name in names if not is_imported(name, source_files)]
    listed = [*imported, *others[: max(0, LISTED_MAX - len(imported))]]
    files = [_look_at(toplevel / name, name, name in imported) for name in sorted(listed)]
    return UntrackedFiles(tuple(files), len(names) - len(listed))


def is_imported(name: str, source_files: Mapping[str, str]) -> bool:
    """Whether `name` (a path in a repository) ends with the import path of a file that a worker imports."""
    parts = name.split("/")
    return any("/".join(parts[start:]) in source_files for start in range(len(parts)))


def _look_at(path: Path, name: str, hashed: bool) -> Untracked:
    """One file; it may vanish meanwhile."""
    try:
        status = path.lstat()
        modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        return Untracked(name, status.st_size, modified, sha256_of(path) if hashed else None)
    except (OSError, ValueError, OverflowError):
        return Untracked(name, None, None)
