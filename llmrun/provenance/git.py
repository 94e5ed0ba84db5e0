"""Which code the user's repository holds: commit, branch, dirty diff, untracked files, remotes.

The repository is the one around the working directory, told by its root commit.  Everything is asked of
the `git` command.  What cannot be known (no git, no repository, no commit) is said in `missing`.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from llmrun.durable import sha256_of

GIT_FORMAT = "llmrun-git/1"
LARGEST_HASHED_BYTES = 1024**3
"""An untracked file above this is recorded by its size alone: it is data, not code."""

TIMEOUT_S = 120


@dataclass(frozen=True)
class Untracked:
    """A file that git does not know; sha256 is None where it is no regular file or too large to hash."""

    name: str
    bytes: int | None
    sha256: str | None


@dataclass(frozen=True)
class GitState:
    """The code around the working directory.

    root_commits: first commits of the history, sorted; they tell a repository wherever it is cloned.
    dirty:        per tracked file that differs from the commit the sha256 of its content, None if deleted.
    diff:         `git diff --binary` against the commit, empty where clean.
    missing:      what could not be known and why, in sentences.
    """

    toplevel: str | None = None
    commit: str | None = None
    branch: str | None = None
    root_commits: tuple[str, ...] = ()
    remotes: dict[str, str] = field(default_factory=dict)
    dirty: dict[str, str | None] = field(default_factory=dict)
    diff: bytes = b""
    untracked: tuple[Untracked, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def diff_sha256(self) -> str:
        """The sha256 of the dirty diff, in hex; that of nothing where the tree is clean."""
        return hashlib.sha256(self.diff).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The state for git.json; the diff lies beside it."""
        document = asdict(self)
        del document["diff"], document["toplevel"]
        return {"format": GIT_FORMAT, **document, "diff_sha256": self.diff_sha256}

    def identity(self) -> dict[str, Any]:
        """What a checkpoint is bound to: commit, diff, and the dirty files that make up the diff."""
        return {
            "commit": self.commit,
            "root_commits": list(self.root_commits),
            "diff_sha256": self.diff_sha256,
            "dirty": self.dirty,
        }


def read_git(directory: Path, leave_out: Sequence[Path] = ()) -> GitState:
    """The repository around `directory`; untracked files below `leave_out` are not listed."""
    try:
        toplevel = Path(_ask(directory, "rev-parse", "--show-toplevel"))
    except FileNotFoundError:
        return GitState(missing=("the git command is not installed: the code has no commit on record",))
    except GitAnswerError as error:
        return GitState(missing=(_why_no_repository(directory, str(error)),))
    commit = _ask_or_none(toplevel, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    missing = () if commit else ("the repository has no commit yet: the code has no commit on record",)
    base = commit or _ask(toplevel, "hash-object", "-t", "tree", "/dev/null")
    return GitState(
        toplevel=str(toplevel),
        commit=commit,
        branch=_ask_or_none(toplevel, "symbolic-ref", "--short", "--quiet", "HEAD"),
        root_commits=_root_commits(toplevel) if commit else (),
        remotes=_remotes(toplevel),
        dirty=_dirty(toplevel, base),
        diff=_run(toplevel, "diff", *DIFF_OPTIONS, "--binary", base, "--"),
        untracked=tuple(_untracked(toplevel, leave_out)),
        missing=missing,
    )


DIFF_OPTIONS = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip
"""The same diff whatever the user's git configuration says."""


class GitAnswerError(Exception):
    """Git answered with an error; its text is git's own."""


def _run(directory: Path, *arguments: str) -> bytes:
    """The output of a git command.  Raises GitAnswerError, or FileNotFoundError without git."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-c", "core.quotePath=off", "-c", "core.fsmonitor=false", *arguments]
    try:
        answer = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise GitAnswerError(f"git {arguments[0]} gave no answer in {TIMEOUT_S} s") from error
    if answer.returncode != 0:
        raise GitAnswerError(answer.stderr.decode(errors="replace").strip())
    return answer.stdout


def _ask(directory: Path, *arguments: str) -> str:
    """The one line that a git command prints."""
    return os.fsdecode(_run(directory, *arguments)).rstrip("\n")


def _ask_or_none(directory: Path, *arguments: str) -> str | None:
    """The one line that a git command prints; None where it has no answer."""
    try:
        return _ask(directory, *arguments) or None
    except GitAnswerError:
        return None


def _why_no_repository(directory: Path, answer: str) -> str:
    """Why git knows nothing of `directory`, in the user's words."""
    if "not a git repository" in answer:
        return f"{directory} is not in a git repository: the code has no commit on record"
    first = answer.splitlines()[0].removeprefix("fatal: ") if answer else "no reason given"
    return f"git refuses to look at {directory}: {first}"


def _root_commits(toplevel: Path) -> tuple[str, ...]:
    """The commits without parents, sorted."""
    return tuple(sorted(_ask(toplevel, "rev-list", "--max-parents=0", "HEAD").split()))


def _names(output: bytes) -> list[str]:
    """The names that git printed with `-z`."""
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _dirty(toplevel: Path, base: str) -> dict[str, str | None]:
    """Per tracked file that differs from `base` the sha256 of its content now."""
    names = _names(_run(toplevel, "diff", *DIFF_OPTIONS, "--name-only", "-z", base, "--"))
    return {name: content_sha256(toplevel / name) for name in sorted(names)}


def content_sha256(path: Path) -> str | None:
    """The sha256 of a file, or of a link's target; None where neither is there."""
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    return sha256_of(path) if path.is_file() else None


def _untracked(toplevel: Path, leave_out: Sequence[Path]) -> Iterable[Untracked]:
    """The files that git neither knows nor ignores, without those below `leave_out`."""
    without = [path.resolve() for path in leave_out]
    for name in sorted(_names(_run(toplevel, "ls-files", "--others", "--exclude-standard", "-z"))):
        path = toplevel / name
        real = path.parent.resolve() / path.name
        if any(real.is_relative_to(left_out) for left_out in without):
            continue
        yield _look_at(name, path)


def _look_at(name: str, path: Path) -> Untracked:
    """One untracked file; it may vanish while we look."""
    try:
        size = path.lstat().st_size
        whole = not path.is_dir() and size <= LARGEST_HASHED_BYTES
        return Untracked(name, size, content_sha256(path) if whole else None)
    except OSError:
        return Untracked(name, None, None)


def _remotes(toplevel: Path) -> dict[str, str]:
    """Name and address of each remote, without credentials."""
    answer = _ask_or_none(toplevel, "config", "--get-regexp", r"^remote\..*\.url$") or ""
    lines = [line.partition(" ") for line in answer.splitlines()]
    return {key[len("remote.") : -len(".url")]: without_credentials(url) for key, _, url in lines}


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


def files_that_differ(state: GitState, old: dict[str, Any]) -> list[str] | None:
    """Files whose content now differs from what it was at `old` (a `GitState.identity()`).

    Returns None where the old commit is not in this repository any more.
    """
    if state.toplevel is None:
        return None
    toplevel = Path(state.toplevel)
    names = {*state.dirty, *old["dirty"]}
    if old["commit"] != state.commit:
        if old["commit"] is None or state.commit is None:
            return None
        try:
            names.update(_names(_run(toplevel, "diff", "--no-renames", "--name-only", "-z", old["commit"], state.commit, "--")))  # fmt: skip
        except GitAnswerError:
            return None
    return sorted(
        name for name in names if _content_then(toplevel, name, old) != content_sha256(toplevel / name)
    )


def _content_then(toplevel: Path, name: str, old: dict[str, Any]) -> str | None:
    """The sha256 that a file had at `old`; None where it was not there."""
    if name in old["dirty"]:
        return old["dirty"][name]  # type: ignore[no-any-return]
    try:
        return hashlib.sha256(_run(toplevel, "cat-file", "blob", f"{old['commit']}:{name}")).hexdigest()
    except GitAnswerError:
        return None
