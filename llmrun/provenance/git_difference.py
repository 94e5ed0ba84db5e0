"""Compares the repository with the one that a segment recorded (`GitState.identity()`), by commit and by content.

A known difference refuses a resume.  What git could not read, then or now, counts neither as equal nor as different: it
is reported, and the code part of the fingerprint still covers the files that a worker imports.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.provenance.git_command import GIT_TIMEOUT_S, GitAnswerError, Limits, run_git
from llmrun.provenance.git_reader import content_sha256
from llmrun.provenance.git_state import GitState

CONVERSIONS = ((), ("--filters",), ("--filters", "core.autocrlf=true"))
"""How git may have written a committed file into the working tree: unchanged, filtered, with CRLF line ends."""


@dataclass(frozen=True)
class RepositoryDifference:
    """Differences between a segment's repository and the one of now.

    commits:    (then, now) if the commits differ; None for no commit.
    roots:      (then, now) root commits, if it is another repository.
    submodules: lines such as `submodule libs/x: 0123 -> 4567`.
    files:      files whose content differs, sorted; None if the old commit is not in this repository.
    unknown:    why not everything could be compared, one sentence each.
    """

    commits: tuple[str | None, str | None] | None = None
    roots: tuple[str, str] | None = None
    submodules: tuple[str, ...] = ()
    files: tuple[str, ...] | None = ()
    unknown: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether a resume must be refused: something is known to differ."""
        return bool(self.commits or self.submodules or self.files)


def compare_repository(
    old: Mapping[str, Any], new: GitState, limits: Limits | None = None
) -> RepositoryDifference:
    """What differs between `old`, the identity that a segment recorded, and `new`.

    limits: by default GIT_TIMEOUT_S seconds.
    """
    limits = limits or Limits(GIT_TIMEOUT_S)
    then_unknown = tuple(f"then: {why}" for why in old.get("incomplete", ()))
    unknown = (*then_unknown, *(f"now: {why}" for why in new.incomplete))
    if old["commit"] != new.commit:
        if (old["commit"] is None and then_unknown) or (new.commit is None and new.incomplete):
            return RepositoryDifference(unknown=unknown)
        roots = _other_roots(old, new)
        if roots is not None:
            return RepositoryDifference((old["commit"], new.commit), roots, unknown=unknown)
    commits = None if old["commit"] == new.commit else (old["commit"], new.commit)
    modules, module_files, not_recorded = _compare_submodules(old, new, limits)
    same_diff = old["diff_sha256"] is not None and old["diff_sha256"] == new.diff_sha256
    if commits is None and same_diff and not modules and not module_files:
        # Equal patches of the same commit mean equal contents, even if a list of files is incomplete.
        return RepositoryDifference(unknown=not_recorded)
    files = files_that_differ(new, old, limits)
    if files is None and commits is None:
        unknown = (*unknown, "cannot read the files of the commit")
        files = []
    everything = None if files is None else tuple(sorted({*files, *module_files}))
    return RepositoryDifference(commits, None, modules, everything, (*unknown, *not_recorded))


def _other_roots(old: Mapping[str, Any], new: GitState) -> tuple[str, str] | None:
    """The root commits then and now, if both are known and have none in common."""
    then, now = old["root_commits"], new.root_commits
    return None if not then or not now or {*then} & {*now} else (then[0], now[0])


def _compare_submodules(
    old: Mapping[str, Any], new: GitState, limits: Limits
) -> tuple[tuple[str, ...], list[str], tuple[str, ...]]:
    """Changed commits (one line each), files whose content differs, and what was not recorded then."""
    then: Mapping[str, Any] | None = old.get("submodules")
    if then is None:
        older = "then: that version of llmrun did not record submodules"
        return (), [], (older,) if new.submodules else ()
    lines, files = [], []
    for path in sorted({*then, *new.submodules}):
        before = then[path]["commit"] if path in then else None
        module = new.submodules.get(path)
        now = module.commit if module else None
        if before != now:
            lines.append(f"submodule {path}: {_short(before)} -> {_short(now)}")
        if path in then and module and new.toplevel is not None:
            state = GitState(f"{new.toplevel}/{path}", now, dirty=module.dirty, incomplete=new.incomplete)
            old_module = {**then[path], "incomplete": old.get("incomplete", ())}
            files += [f"{path}/{name}" for name in files_that_differ(state, old_module, limits) or ()]
    return tuple(lines), files, ()


def _short(commit: str | None) -> str:
    return commit[:12] if commit else "none"


def files_that_differ(
    state: GitState, old: Mapping[str, Any], limits: Limits | None = None
) -> list[str] | None:
    """Files whose content differs from the one at `old` (a `GitState.identity()`), sorted.

    None if the old commit is no longer in this repository.
    """
    if state.toplevel is None:
        return None
    limits = limits or Limits(GIT_TIMEOUT_S)
    toplevel = Path(state.toplevel)
    names = {*old["dirty"]}
    if not state.incomplete:
        # An incomplete list may be too long or too short: compare only the files that the other list names.
        names |= {name for name in state.dirty if not old.get("incomplete") or name in old["dirty"]}
    if old["commit"] != state.commit:
        if old["commit"] is None or state.commit is None:
            return None
        committed = ("diff", "--no-ext-diff", "--no-renames", "--name-only", "-z", "--ignore-submodules=all")
        try:
            output = run_git(toplevel, limits, *committed, old["commit"], state.commit, "--")
        except GitAnswerError:
            return None
        names |= {os.fsdecode(name) for name in output.split(b"\0") if name}
    try:
        return sorted(name for name in names if _differs(toplevel, name, old, limits))
    except (GitAnswerError, OSError):
        return None


def _differs(toplevel: Path, name: str, old: Mapping[str, Any], limits: Limits) -> bool:
    """Whether a file's content differs from the one at `old`."""
    now = content_sha256(toplevel / name, limits)
    if name in old["dirty"]:
        return bool(old["dirty"][name] != now)
    for conversion in CONVERSIONS:
        then = _committed_sha256(toplevel, f"{old['commit']}:{name}", conversion, limits)
        if then == now:
            return False
        if then is None:
            return True
    return True


def _committed_sha256(toplevel: Path, blob: str, conversion: tuple[str, ...], limits: Limits) -> str | None:
    """The sha256 of a committed file after `conversion`; None if git cannot print it."""
    digest = hashlib.sha256()
    mode, *settings = conversion or ("blob",)
    try:
        run_git(toplevel, limits, "cat-file", mode, blob, write=digest.update, settings=settings)
    except GitAnswerError:
        limits.check("reading committed files")
        return None
    return digest.hexdigest()
