"""Differences between the last segments of two runs: fingerprint, repository, operational settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.config.differences import Absent, leaf_differences
from llmrun.config.keys import leaves, shown_key
from llmrun.provenance.fingerprint import Change, Fingerprint, compare
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_in_force
from llmrun.run.record import RunRecord

GIT, OPERATIONAL = "git", "operational"
"""Kinds of difference besides the parts of the fingerprint; neither can change a bit by itself."""


@dataclass(frozen=True)
class RunDifference:
    """What differs between the last segments of two runs.

    digests: the two fingerprints.
    changes: by part (config, data, code, environment), then `git` and `operational`.
    """

    digests: tuple[str, str]
    changes: tuple[Change, ...]

    @property
    def equal(self) -> bool:
        """Whether the fingerprints are equal, so that both runs promise the same bits."""
        return self.digests[0] == self.digests[1]

    def as_json(self) -> dict[str, Any]:
        """The difference as a JSON object."""
        rows = [
            {"part": c.part, "key": c.key, "old": _json(c.old), "new": _json(c.new)} for c in self.changes
        ]
        return {"equal": self.equal, "fingerprints": list(self.digests), "changes": rows}


def _json(value: Any) -> Any:
    return None if isinstance(value, Absent) else value


def difference_of(a: tuple[RunDirectory, RunRecord], b: tuple[RunDirectory, RunRecord]) -> RunDifference:
    """How run `b` differs from run `a`."""
    old, new = (Fingerprint(record.preimages_of(record.last)) for _, record in (a, b))
    fields = [
        Change(change.part, shown_key(change.key), change.old, change.new) for change in compare(old, new)
    ]
    git = [Change(GIT, *row) for row in leaf_differences(_git_of(a[1]), _git_of(b[1]))]
    operational = [
        Change(OPERATIONAL, *row)
        for row in _operational_differences(config_in_force(*a), config_in_force(*b))
    ]
    return RunDifference((old.digest, new.digest), (*fields, *git, *operational))


def _git_of(record: RunRecord) -> Mapping[str, Any]:
    """The repository of the last segment: commit, files with uncommitted changes, submodules, what is not known."""
    git = record.git if record.last is None else record.last.git
    compared = {"commit": git["commit"], "dirty": git["dirty"], "diff_sha256": git["diff_sha256"]}
    # Absent in records of older versions.
    return compared | {key: git[key] for key in ("submodules", "incomplete") if git.get(key)}


def _operational_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields of two configs that differ, without the numeric ones, which are in the fingerprint."""
    numeric = {leaf.shown for leaf in leaves().values() if leaf.kind == "numeric"}
    return [row for row in leaf_differences(old, new) if row[0] not in numeric]
