"""What is recorded of the user's repository: commit, branch, remotes, changed and untracked files, and their patch."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from llmrun.provenance.code import is_imported
from llmrun.provenance.git_command import OutputLimitError
from llmrun.storage.durable import sha256_of

GIT_FORMAT = "llmrun-git/2"

PATCH_BYTES_MAX = 64 * 1024 * 1024
"""Each segment of a run keeps its patch."""

PATCH_BLOCK_BYTES = 1024 * 1024

LISTED_MAX = 10_000
"""Untracked files listed by name; the rest are counted.  Files that workers import are always listed."""


class Patch:
    """The patch of uncommitted changes, hashed while it is streamed to an unnamed file.

    The file is deleted with this object.  directory: where it lies; by default the system's temporary directory.
    """

    def __init__(self, directory: Path | None = None, bytes_max: int = PATCH_BYTES_MAX) -> None:
        self.bytes = 0
        self.complete = True
        self._directory = directory
        self._bytes_max = bytes_max
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def write(self, block: bytes) -> None:
        """Append a block.  Raises OutputLimitError above the limit, OSError if the disk is full."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        kept = memoryview(block)[: self._bytes_max - self.bytes]
        written = 0
        while written < len(kept):
            written += self._file.write(kept[written:])
        self._digest.update(kept)
        self.bytes += len(kept)
        if len(kept) < len(block):
            raise OutputLimitError(f"it is larger than {self._bytes_max:,} bytes")

    @property
    def sha256(self) -> str | None:
        """The sha256 in hex; None if the patch is incomplete."""
        return self._digest.hexdigest() if self.complete else None

    def blocks(self) -> Iterator[bytes]:
        """The content, block by block."""
        for start in range(0, self.bytes, PATCH_BLOCK_BYTES):
            assert self._file is not None
            yield os.pread(self._file.fileno(), min(PATCH_BLOCK_BYTES, self.bytes - start), start)


@dataclass(frozen=True)
class Untracked:
    """A file that git neither tracks nor ignores.

    bytes, modified (UTC): None if it vanished.  sha256: None unless a worker imports it.
    """

    name: str
    bytes: int | None
    modified: str | None
    sha256: str | None = None


@dataclass(frozen=True)
class UntrackedFiles:
    """The untracked files that are listed by name, and how many more there are."""

    listed: tuple[Untracked, ...] = ()
    more: int = 0

    def as_json(self) -> dict[str, Any]:
        """The entries for git.json."""
        return {"untracked": [asdict(file) for file in self.listed], "untracked_more": self.more}


def describe_untracked(
    toplevel: Path, names: Sequence[str], source_files: Mapping[str, str]
) -> UntrackedFiles:
    """Size and time of untracked files, and the sha256 of those that a worker imports.

    names: relative to `toplevel`.  source_files: digests of the files that a worker imports, by import path.
    """
    imported = [name for name in names if is_imported(name, source_files)]
    others = [name for name in names if not is_imported(name, source_files)]
    listed = [*imported, *others[: max(0, LISTED_MAX - len(imported))]]
    files = [_describe(toplevel / name, name, name in imported) for name in sorted(listed)]
    return UntrackedFiles(tuple(files), len(names) - len(listed))


def _describe(path: Path, name: str, hashed: bool) -> Untracked:
    """One file, which may vanish meanwhile."""
    try:
        status = path.lstat()
        modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        return Untracked(name, status.st_size, modified, sha256_of(path) if hashed else None)
    except (OSError, ValueError, OverflowError):
        return Untracked(name, None, None)


@dataclass(frozen=True)
class Submodule:
    """A submodule as it is checked out; commit is None if it is not checked out or has no commit.

    dirty: as in GitState, names relative to the submodule.
    """

    commit: str | None
    dirty: Mapping[str, str | None]


@dataclass(frozen=True)
class GitState:
    """The repository around the working directory.

    root_commits: first commits of the history, sorted; they identify a repository wherever it is cloned.
    dirty:        sha256 of the content of each tracked file that differs from the commit, by name; None if deleted.
    submodules:   by path from the top of the repository, nested ones too.
    diff:         `git diff --binary` against the commit, then those of the submodules; empty if clean.
    untracked_names: all untracked files; `untracked` describes those that are recorded.
    missing:      what could not be recorded and why, one sentence each.
    incomplete:   the entries of `missing` because of which the tree cannot be compared with another one.
    """

    toplevel: str | None = None
    commit: str | None = None
    branch: str | None = None
    root_commits: tuple[str, ...] = ()
    remotes: Mapping[str, str] = field(default_factory=dict)
    dirty: Mapping[str, str | None] = field(default_factory=dict)
    submodules: Mapping[str, Submodule] = field(default_factory=dict)
    diff: Patch = field(default_factory=Patch)
    untracked_names: tuple[str, ...] = ()
    untracked: UntrackedFiles = field(default_factory=UntrackedFiles)
    missing: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()

    @property
    def diff_sha256(self) -> str | None:
        """The sha256 of the patch, in hex (that of no bytes if the tree is clean); None if it is incomplete."""
        return self.diff.sha256

    def as_json(self) -> dict[str, Any]:
        """The state for git.json; the patch is written to git.diff."""
        return {
            "format": GIT_FORMAT,
            "commit": self.commit,
            "branch": self.branch,
            "root_commits": list(self.root_commits),
            "remotes": dict(self.remotes),
            "dirty": dict(self.dirty),
            "submodules": self._submodules_json(),
            "diff_bytes": self.diff.bytes,
            "diff_complete": self.diff.complete,
            "diff_sha256": self.diff_sha256,
            **self.untracked.as_json(),
            "missing": list(self.missing),
        }

    def identity(self) -> dict[str, Any]:
        """What a checkpoint is bound to: commit, patch, and the contents of the changed files."""
        return {
            "commit": self.commit,
            "root_commits": list(self.root_commits),
            "diff_sha256": self.diff_sha256,
            "dirty": dict(self.dirty),
            "submodules": self._submodules_json(),
            "incomplete": list(self.incomplete),
        }

    def _submodules_json(self) -> dict[str, Any]:
        return {path: asdict(submodule) for path, submodule in self.submodules.items()}

    def with_untracked(self, source_files: Mapping[str, str]) -> "GitState":
        """The state with its untracked files described (`describe_untracked`)."""
        if self.toplevel is None:
            return self
        return replace(
            self, untracked=describe_untracked(Path(self.toplevel), self.untracked_names, source_files)
        )
