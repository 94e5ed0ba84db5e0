"""Reads the repository around the working directory: commit, branch, patch, submodules, untracked files, remotes.

The repository is identified by its root commits.  Everything is asked of the `git` command, within limits of time and
bytes.  A part that cannot be read never stops a run: `GitState.missing` says what it is and why, and
`GitState.incomplete` holds the reasons because of which the tree cannot be compared with another one.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from llmrun.provenance.git_command import (
    DIFF_OPTIONS,
    GIT_TIMEOUT_S,
    GitAnswerError,
    GitMissingError,
    Limits,
    NoOutputError,
    run_git,
)
from llmrun.provenance.git_state import GitState, Patch, Submodule
from llmrun.provenance.redaction import without_credentials

DIRTY_MAX = 20_000
"""Files with uncommitted changes whose hashes are recorded in run.json."""

HASH_BLOCK_BYTES = 1024 * 1024

T = TypeVar("T")


def read_git(
    directory: Path,
    leave_out: Sequence[Path] = (),
    *,
    limits: Limits | None = None,
    patch: Patch | None = None,
) -> GitState:
    """The repository around `directory`, within `limits` (by default GIT_TIMEOUT_S seconds).

    leave_out: directories whose untracked files are not listed.
    patch: receives the diff.
    Raises StoppedError after `limits.stop()`, and nothing else, whatever the repository holds.
    """
    limits = limits or Limits(GIT_TIMEOUT_S)
    try:
        toplevel = Path(_line(directory, limits, "rev-parse", "--show-toplevel"))
    except GitMissingError as error:
        why = f"{error}: the commit of the code is not recorded"
        return GitState(missing=(why,), incomplete=(why,))
    except GitAnswerError as error:
        return _no_repository(directory, str(error))
    reader = _Reader(limits, patch or Patch())
    return reader.read(toplevel, leave_out)


def _no_repository(directory: Path, answer: str) -> GitState:
    """The state if git cannot read `directory`: there is no repository, or git refuses and says why."""
    if answer.startswith("fatal: not a git repository (or any"):
        return GitState(
            missing=(f"{directory} is not in a git repository: the commit of the code is not recorded",)
        )
    why = f"cannot read the git repository of {directory}: {answer}"
    return GitState(missing=(why,), incomplete=(why,))


class _Reader:
    """Reads the parts of a repository one by one and collects the reasons for what is missing."""

    def __init__(self, limits: Limits, patch: Patch) -> None:
        self._limits = limits
        self._patch = patch
        self._missing: list[str] = []
        self._incomplete: list[str] = []

    def read(self, toplevel: Path, leave_out: Sequence[Path]) -> GitState:
        """Read the state: first what a resume compares, last the diff, which may take longest."""
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
        """The answer, or `otherwise` and a reason.  compared: whether comparing trees needs this part."""
        try:
            return ask()
        except (GitAnswerError, OSError) as error:
            self._miss(what, error, compared=compared)
            return otherwise

    def _miss(self, what: str, error: Exception, *, compared: bool) -> None:
        """Record that a part is missing."""
        why = f"cannot {what}: {error}"
        self._missing.append(why)
        if compared:
            self._incomplete.append(why)

    def _commit(self, toplevel: Path, path: str) -> tuple[str | None, str]:
        """The commit of HEAD, and what the working tree is compared with: that commit, or an empty tree."""
        of = f" of submodule {path}" if path else ""
        try:
            commit = _line(toplevel, self._limits, "rev-parse", "--verify", "--quiet", "HEAD")
        except NoOutputError:
            self._missing.append(
                f"submodule {path} has no commit yet"
                if path
                else "the repository has no commit yet: the commit of the code is not recorded"
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
        """One submodule; it is not checked out if it has no `.git` of its own."""
        if not (toplevel / ".git").exists():
            return Submodule(None, {})
        if "GIT_DIR" in os.environ:
            self._miss(f"read submodule {path}", OSError("the variable GIT_DIR is set"), compared=True)
            return Submodule(None, {})
        commit, base = self._commit(toplevel, path)
        return Submodule(commit, self._tree(toplevel, path, base, submodules))

    def _dirty(self, toplevel: Path, of: str, base: str, links: frozenset[str]) -> dict[str, str | None]:
        """The sha256 of each tracked file that differs from `base`, by name."""
        what = f"compare the working tree{of} with its commit"
        try:
            names = _names(_diff_names(toplevel, self._limits, base))
        except (GitAnswerError, OSError) as error:
            self._miss(what, error, compared=True)
            # Reads no file and starts no filter, so it may name files whose content equals the committed one.
            plumbing = ("diff-index", "--name-only", "-z", "--ignore-submodules=dirty", base, "--")
            names = _names(
                self._part("list changed files", lambda: run_git(toplevel, self._limits, *plumbing), b"")
            )
        names = sorted({*names} - links)
        if len(names) > DIRTY_MAX:
            many = f"{len(names):,} files differ, only the hashes of {DIRTY_MAX:,} are recorded"
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
    """The output of a git command that prints one line."""
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
    except NoOutputError:
        return None


def _root_commits(toplevel: Path, limits: Limits) -> tuple[str, ...]:
    """The commits without parents, sorted."""
    return tuple(sorted(_line(toplevel, limits, "rev-list", "--max-parents=0", "HEAD").split()))


def _links(toplevel: Path, limits: Limits) -> list[str]:
    """Paths of the submodules in the index, sorted.  The index may be large: only these entries are kept in memory."""
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
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
            if limits is not None:
                limits.check(f"hashing {path.name}")
    return digest.hexdigest()


def _untracked(toplevel: Path, leave_out: Sequence[Path], limits: Limits) -> tuple[str, ...]:
    """Names of the files that git neither tracks nor ignores, except those below `leave_out`, sorted."""
    left_out = [
        path.resolve().relative_to(toplevel).as_posix() for path in leave_out if _is_below(path, toplevel)
    ]
    # Git does not walk excluded directories.
    excluded = [f"--exclude=/{_as_pattern(path)}/" for path in left_out]
    output = run_git(toplevel, limits, "ls-files", "--others", "--exclude-standard", "-z", *excluded)
    return tuple(sorted(_names(output)))


def _as_pattern(path: str) -> str:
    """A path as a gitignore pattern that matches only itself."""
    return re.sub(r"([\[\]*?!#\\ ])", r"\\\1", path)


def _is_below(path: Path, toplevel: Path) -> bool:
    """Whether a directory is in the repository, below its top."""
    real = path.resolve()
    return real != toplevel and real.is_relative_to(toplevel)


def _remotes(toplevel: Path, limits: Limits) -> dict[str, str]:
    """Name and address of each remote, without credentials."""
    try:
        output = run_git(toplevel, limits, "config", "--null", "--get-regexp", r"^remote\..*\.url$")
    except NoOutputError:
        return {}
    entries = [entry.partition("\n") for entry in _names(output)]
    return {key[len("remote.") : -len(".url")]: without_credentials(url) for key, _, url in entries}
