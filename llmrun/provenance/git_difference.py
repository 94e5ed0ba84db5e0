"""How the repository differs between a segment's record (`GitState.identity()`) and now, by commit and by content.

A difference that is known refuses a resume.  What cannot be compared, because git could not read it then or now, is
neither a difference nor equality: it is reported, and the code part of the fingerprint still holds the files that a
worker imports.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.provenance.git import GIT_S, GitState, content_sha256
from llmrun.provenance.git_command import GitAnswerError, Limits, run_git

CONVERSIONS = ((), ("--filters",), ("--filters", "core.autocrlf=true"))
"""How a committed file may have been written into the working tree: as it is, filtered, with line ends of CRLF."""


@dataclass(frozen=True)
class RepositoryDifference:
    """What differs.

    commits:   (then, now) if the commits are not the same; "none" for no commit.
    roots:     (then, now) root commits, if it is another repository.
    submodules: lines such as `submodule libs/x: 0123 -> 4567`.
    files:     whose content differs, sorted; None if the old commit is not in this repository.
    unknown:   reasons for which not everything was compared.
    """

    commits: tuple[str | None, str | None] | None = None
    roots: tuple[str, str] | None = None
    submodules: tuple[str, ...] = ()
    files: tuple[str, ...] | None = ()
    unknown: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """Whether a known difference binds a resume."""
        return bool(self.commits or self.submodules or self.files)


def compare_repository(
    old: Mapping[str, Any], new: GitState, limits: Limits | None = None
) -> RepositoryDifference:
    """The difference between the record of a segment and now, found within `limits` (by default GIT_S seconds)."""
    limits = limits or Limits(GIT_S)
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
        # Equal patches against one commit are equal contents, also if a list of files is incomplete.
        return RepositoryDifference(unknown=not_recorded)
    files = files_that_differ(new, old, limits)
    if files is None and commits is None:
        unknown = (*unknown, "the commit's files cannot be read")
        files = []
    everything = None if files is None else tuple(sorted({*files, *module_files}))
    return RepositoryDifference(commits, None, modules, everything, (*unknown, *not_recorded))


def _other_roots(old: Mapping[str, Any], new: GitState) -> tuple[str, str] | None:
    """The root commits then and now, if both are known and none is the same."""
    then, now = old["root_commits"], new.root_commits
    return None if not then or not now or {*then} & {*now} else (then[0], now[0])


def _compare_submodules(
    old: Mapping[str, Any], new: GitState, limits: Limits
) -> tuple[tuple[str, ...], list[str], tuple[str, ...]]:
    """Lines on changed commits, names of files that differ in content, and what was not recorded then."""
    then: Mapping[str, Any] | None = old.get("submodules")
    if then is None:
        older = "then: submodules were not recorded by that version of llmrun"
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
    """A commit in twelve digits."""
    return commit[:12] if commit else "none"


def files_that_differ(
    state: GitState, old: Mapping[str, Any], limits: Limits | None = None
) -> list[str] | None:
    """Files whose content now differs from what it was at `old` (a `GitState.identity()`).

    Returns None if the old commit is not in this repository any more.
    """
    if state.toplevel is None:
        return None
    limits = limits or Limits(GIT_S)
    toplevel = Path(state.toplevel)
    names = {*old["dirty"]}
    if not state.incomplete:
        # Of a list that may be too long or too short, only the files that the other one has are compared.
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
    """Whether a file's content is not what it was at `old`."""
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
    """The sha256 of a committed file; None if the commit has no such file, or cannot give it in this form."""
    digest = hashlib.sha256()
    mode, *settings = conversion or ("blob",)
    try:
        run_git(toplevel, limits, "cat-file", mode, blob, write=digest.update, settings=settings)
    except GitAnswerError:
        limits.check("reading committed files")
        return None
    return digest.hexdigest()
