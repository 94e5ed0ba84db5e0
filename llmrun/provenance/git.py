"""Which code the user's repository holds: commit, branch, dirty diff, submodules, untracked files, remotes.

The repository is the one around the working directory, identified by its root commit.  Everything is asked of the
`git` command, within limits of time and bytes.  A part that cannot be read never stops a run: `missing` says what it
is and why, and `incomplete` holds the reasons for which the tree cannot be compared with another one.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from llmrun.provenance.git_command import (
    DIFF_OPTIONS,
    GitAnswerError,
    GitMissingError,
    Limits,
    NoWordsError,
    run_git,
)
from llmrun.provenance.patch import Patch
from llmrun.provenance.untracked import UntrackedFiles, look_at_untracked

GIT_FORMAT = "llmrun-git/2"

GIT_S = 30.0
"""Seconds for all git commands and hashes of a start together."""

DIRTY_MAX = 20_000
"""Files with uncommitted changes whose hashes are recorded in run.json."""

BLOCK_BYTES = 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True)
class Submodule:
    """A submodule as it is checked out; commit is None if it is not checked out or has no commit.

    dirty: as in GitState, names relative to the submodule.
    """

    commit: str | None
    dirty: Mapping[str, str | None]


@dataclass(frozen=True)
class GitState:
    """The code around the working directory.

    root_commits: first commits of the history, sorted; they identify a repository wherever it is cloned.
    dirty:        per tracked file that differs from the commit the sha256 of its content, None if deleted.
    submodules:   by path from the top of the repository, nested ones too.
    diff:         `git diff --binary` against the commit, then those of the submodules; empty if clean.
    untracked_names: all of them; `untracked` holds those that go on record.
    missing:      what could not be recorded and why, in sentences.
    incomplete:   those of them for which the tree cannot be compared with another one.
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
        """The sha256 of the dirty diff, in hex; that of nothing if the tree is clean, None if it is not complete."""
        return self.diff.sha256

    def as_json(self) -> dict[str, Any]:
        """The state for git.json; the diff is in a file beside it."""
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
        """What a checkpoint is bound to: commit, diff, and the contents that make up the diff."""
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
        """The state with the untracked files that go on record; those that a worker imports are hashed."""
        if self.toplevel is None:
            return self
        return replace(
            self, untracked=look_at_untracked(Path(self.toplevel), self.untracked_names, source_files)
        )


def read_git(
    directory: Path,
    leave_out: Sequence[Path] = (),
    *,
    limits: Limits | None = None,
    patch: Patch | None = None,
) -> GitState:
    """The repository around `directory`, within `limits` (by default GIT_S seconds).

    leave_out: untracked files below these directories are not listed.
    patch: where the diff goes.
    Raises StoppedError after `limits.stop()`, and nothing else that a repository can cause.
    """
    limits = limits or Limits(GIT_S)
    try:
        toplevel = Path(_line(directory, limits, "rev-parse", "--show-toplevel"))
    except GitMissingError as error:
        why = f"{error}: the code has no commit on record"
        return GitState(missing=(why,), incomplete=(why,))
    except GitAnswerError as error:
        return _no_repository(directory, str(error))
    reader = _Reader(limits, patch or Patch())
    return reader.read(toplevel, leave_out)


def _no_repository(directory: Path, answer: str) -> GitState:
    """Git does not read `directory`: there is no repository, or it refuses, in its own words."""
    if answer.startswith("fatal: not a git repository (or any"):
        return GitState(
            missing=(f"{directory} is not in a git repository: the code has no commit on record",)
        )
    why = f"cannot read the git repository of {directory}: {answer}"
    return GitState(missing=(why,), incomplete=(why,))


class _Reader:
    """Reads the parts of a repository one by one and keeps the reasons for what is missing."""

    def __init__(self, limits: Limits, patch: Patch) -> None:
        self._limits = limits
        self._patch = patch
        self._missing: list[str] = []
        self._incomplete: list[str] = []

    def read(self, toplevel: Path, leave_out: Sequence[Path]) -> GitState:
        """The state: first what a resume compares, the diff at the end, as it may take longest."""
        commit, base = self._commit(toplevel, "")
        submodules: dict[str, Submodule] = {}
        dirty = self._tree(toplevel, "", base, submodules)
        submodules = dict(sorted(submodules.items()))
        none: tuple[str, ...] = ()
        no_remotes: dict[str, str] = {}
        untracked = self._part(
            "list untracked files", lambda: _untracked(toplevel, leave_out, self._limits), none
        )
        branch = self._part("read the branch", lambda: _branch(toplevel, self._limits), None)
        remotes = self._part("read the remotes", lambda: _remotes(toplevel, self._limits), no_remotes)
        roots = none
        if commit is not None:
            roots = self._part("read the root commit", lambda: _root_commits(toplevel, self._limits), none)
        self._diff(toplevel, "", base)
        for path, submodule in submodules.items():
            if submodule.commit is not None:
                self._diff(toplevel / path, f"{path}/", submodule.commit)
        return GitState(
            str(toplevel), commit, branch, roots, remotes, dirty, submodules, self._patch, untracked,
            missing=tuple(self._missing), incomplete=tuple(self._incomplete),
        )  # fmt: skip

    def _part(self, what: str, ask: Callable[[], T], otherwise: T, *, compared: bool = False) -> T:
        """The answer, or `otherwise` and a reason.  compared: without it trees cannot be compared."""
        try:
            return ask()
        except (GitAnswerError, OSError) as error:
            self._miss(what, error, compared=compared)
            return otherwise

    def _miss(self, what: str, error: Exception, *, compared: bool) -> None:
        """Put on record that a part is missing."""
        why = f"cannot {what}: {error}"
        self._missing.append(why)
        if compared:
            self._incomplete.append(why)

    def _commit(self, toplevel: Path, path: str) -> tuple[str | None, str]:
        """The commit of HEAD, and what the working tree is compared with: the commit or an empty tree."""
        of = f" of submodule {path}" if path else ""
        try:
            commit = _line(toplevel, self._limits, "rev-parse", "--verify", "--quiet", "HEAD")
        except NoWordsError:
            self._missing.append(
                f"submodule {path} has no commit yet"
                if path
                else "the repository has no commit yet: the code has no commit on record"
            )
            commit = None
        except GitAnswerError as error:
            self._miss(f"read the commit{of}", error, compared=True)
            commit = None
        if commit is not None:
            return commit, commit
        empty = ("hash-object", "-t", "tree", "/dev/null")
        return None, self._part(
            f"name the empty tree{of}", lambda: _line(toplevel, self._limits, *empty), "HEAD"
        )

    def _tree(
        self, toplevel: Path, path: str, base: str, submodules: dict[str, Submodule]
    ) -> dict[str, str | None]:
        """The dirty files of a repository; its submodules are added to `submodules`, nested ones too.

        path: of the repository from the top; empty for the top itself.
        """
        of = f" of submodule {path}" if path else ""
        no_links: list[str] = []
        links = self._part(
            f"list the submodules{of}", lambda: _links(toplevel, self._limits), no_links, compared=True
        )
        dirty = self._dirty(toplevel, of, base, frozenset(links))
        for link in links:
            inner = f"{path}/{link}" if path else link
            submodules[inner] = self._submodule(toplevel / link, inner, submodules)
        return dirty

    def _submodule(self, toplevel: Path, path: str, submodules: dict[str, Submodule]) -> Submodule:
        """One submodule.  Without a `.git` of its own it is not checked out."""
        if not (toplevel / ".git").exists():
            return Submodule(None, {})
        if "GIT_DIR" in os.environ:
            self._miss(f"read submodule {path}", OSError("the variable GIT_DIR is set"), compared=True)
            return Submodule(None, {})
        commit, base = self._commit(toplevel, path)
        return Submodule(commit, self._tree(toplevel, path, base, submodules))

    def _dirty(self, toplevel: Path, of: str, base: str, links: frozenset[str]) -> dict[str, str | None]:
        """Per tracked file that differs from `base` the sha256 of its content now."""
        what = f"compare the working tree{of} with its commit"
        try:
            names = _names(_diff_names(toplevel, self._limits, base))
        except (GitAnswerError, OSError) as error:
            self._miss(what, error, compared=True)
            # Reads no file and starts no filter: files may be named whose content is as committed.
            plumbing = ("diff-index", "--name-only", "-z", "--ignore-submodules=dirty", base, "--")
            names = _names(
                self._part("list changed files", lambda: run_git(toplevel, self._limits, *plumbing), b"")
            )
        names = sorted({*names} - links)
        if len(names) > DIRTY_MAX:
            many = f"{len(names):,} files differ, hashes of {DIRTY_MAX:,} are recorded"
            self._miss(what, OSError(many), compared=True)
        dirty: dict[str, str | None] = {}
        for name in names[:DIRTY_MAX]:
            try:
                dirty[name] = content_sha256(toplevel / name, self._limits)
            except (GitAnswerError, OSError) as error:
                self._miss(f"hash {name}{of}", error, compared=True)
                if isinstance(error, GitAnswerError):  # the time is used up
                    break
        return dirty

    def _diff(self, toplevel: Path, prefix: str, base: str) -> None:
        """Append a repository's diff to the patch, with `prefix` before its paths."""
        if not self._patch.complete:
            return
        prefixes = (f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}")
        try:
            run_git(
                toplevel,
                self._limits,
                "diff",
                *DIFF_OPTIONS,
                *prefixes,
                "--binary",
                base,
                "--",
                write=self._patch.write,
            )
        except (GitAnswerError, OSError) as error:
            self._patch.complete = False
            self._miss("record the whole diff of uncommitted changes", error, compared=False)


def _line(directory: Path, limits: Limits, *arguments: str) -> str:
    """The one line that a git command prints."""
    return os.fsdecode(run_git(directory, limits, *arguments)).rstrip("\n")


def _names(output: bytes) -> list[str]:
    """The names that git printed with `-z`."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _diff_names(toplevel: Path, limits: Limits, base: str) -> bytes:
    """Names of tracked files that differ from `base`."""
    return run_git(toplevel, limits, "diff", *DIFF_OPTIONS, "--name-only", "-z", base, "--")


def _branch(toplevel: Path, limits: Limits) -> str | None:
    """The branch; None for a detached HEAD."""
    try:
        return _line(toplevel, limits, "symbolic-ref", "--short", "--quiet", "HEAD")
    except NoWordsError:
        return None


def _root_commits(toplevel: Path, limits: Limits) -> tuple[str, ...]:
    """The commits without parents, sorted."""
    return tuple(sorted(_line(toplevel, limits, "rev-list", "--max-parents=0", "HEAD").split()))


def _links(toplevel: Path, limits: Limits) -> list[str]:
    """Paths of the submodules in the index, sorted.  The index may be large: only these entries are held."""
    rest = bytearray()
    found: set[str] = set()

    def keep(block: bytes) -> None:
        rest.extend(block)
        *entries, last = bytes(rest).split(b"\0")
        rest[:] = last
        found.update(
            os.fsdecode(entry.partition(b"\t")[2]) for entry in entries if entry.startswith(b"160000 ")
        )

    run_git(toplevel, limits, "ls-files", "--stage", "-z", write=keep)
    return sorted(found)


def content_sha256(path: Path, limits: Limits | None = None) -> str | None:
    """The sha256 of a file, or of a link's target; None if neither is there.

    Raises OSError, GitAnswerError if the time is used up.
    """
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if limits is not None:
                limits.check(f"hashing {path.name}")
    return digest.hexdigest()


def _untracked(toplevel: Path, leave_out: Sequence[Path], limits: Limits) -> tuple[str, ...]:
    """Names of the files that git neither tracks nor ignores, without those below `leave_out`, sorted."""
    left_out = [
        path.resolve().relative_to(toplevel).as_posix() for path in leave_out if _is_below(path, toplevel)
    ]
    # Git does not walk through what is excluded.
    excluded = [f"--exclude=/{_as_pattern(path)}/" for path in left_out]
    output = run_git(toplevel, limits, "ls-files", "--others", "--exclude-standard", "-z", *excluded)
    return tuple(sorted(_names(output)))


def _as_pattern(path: str) -> str:
    """A path as a pattern that matches only itself."""
    return re.sub(r"([\[\]*?!#\\ ])", r"\\\1", path)


def _is_below(path: Path, toplevel: Path) -> bool:
    """Whether a directory is in the repository, below its top."""
    real = path.resolve()
    return real != toplevel and real.is_relative_to(toplevel)


def _remotes(toplevel: Path, limits: Limits) -> dict[str, str]:
    """Name and address of each remote, without credentials."""
    try:
        output = run_git(toplevel, limits, "config", "--null", "--get-regexp", r"^remote\..*\.url$")
    except NoWordsError:
        return {}
    entries = [entry.partition("\n") for entry in _names(output)]
    return {key[len("remote.") : -len(".url")]: without_credentials(url) for key, _, url in entries}


def without_credentials(url: str) -> str:
    """A remote's address without user, password, query or fragment; an ssh user name is kept.

    `https://alice:s3cret@host/r.git?token=x` -> `https://host/r.git`; `git@host:r.git` stays.
    An address in a form that we do not know is withheld.
    """
    if re.match(r"\s*[\w.+-]+::", url):
        return "(withheld: a transport helper)"
    if "://" in url:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return "(withheld: not a well-formed address)"
        user = f"{parts.username}@" if parts.username and parts.scheme in ("ssh", "git+ssh") else ""
        if not parts.scheme:
            return "(withheld: not a well-formed address)"
        host = f"[{host}]" if ":" in host else host
        return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "", ""))
    scp_like = re.fullmatch(r"(?:([^@/:]+)(?::[^@/]*)?@)?([^@/:]+):(.*)", url)
    if scp_like:
        user, host, path = scp_like.groups()
        return f"{user}@{host}:{path}" if user else f"{host}:{path}"
    return url if "@" not in url else "(withheld: not a well-formed address)"
