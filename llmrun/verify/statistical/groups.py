"""Groups of runs to compare: their loss curves, and checks that they can be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrun.config.differences import leaf_differences
from llmrun.errors import DamagedError, InputError
from llmrun.run.directory import RunDirectory
from llmrun.run.groups import find_runs
from llmrun.run.record import RunRecord, read_record
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.record import QUANTITIES
from llmrun.storage.metrics.curves import Curve, first_equal_pair, read_curve
from llmrun.storage.metrics.throughput import MovingAverage
from llmrun.text import command

RUNS_MIN = 2


@dataclass(frozen=True)
class Member:
    """One run of a group."""

    run: RunDirectory
    record: RunRecord
    curve: Curve

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.record.config["seed"])

    def preimage(self, part: str) -> Any:
        """The preimage of one part of its fingerprint."""
        return self.record.preimages_of(self.record.last)[part]


@dataclass(frozen=True)
class Group:
    """At least two runs that differ only in their seeds, or in hardware.

    label: baseline or candidate.
    """

    label: str
    members: tuple[Member, ...]

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.members)

    @property
    def names(self) -> list[str]:
        """The names of the runs."""
        return [member.name for member in self.members]


def load_group(label: str, wanted: Sequence[str], runs_dir: str | Path) -> Group:
    """The runs that `wanted` names: names, paths, patterns, several in one entry with commas.

    Raises InputError if they do not exist, are fewer than two, or have no metrics, DamagedError if the metrics
    or run.json of one contradict its ledger or themselves.
    """
    entries = [part.strip() for entry in wanted for part in entry.split(",") if part.strip()]
    runs = find_runs(entries, runs_dir)
    if len(runs) < RUNS_MIN:
        raise InputError(
            f"--{label} must name at least {RUNS_MIN} runs (5 are useful), got {len(runs)}",
            hints=[f"`--{label} RUN,RUN,…`, or a pattern in quotes: `--{label} 'base-*'`"],
        )
    members = []
    for run in runs:
        curve = read_curve(run.metrics_file)
        if not curve.steps:
            raise InputError(f"cannot compare {run.path}: it has no metrics", hints=["leave it out"])
        refuse_other_losses(run, curve)
        members.append(Member(run, read_record(run.record_file), curve))
    return Group(label, tuple(members))


def refuse_other_losses(run: RunDirectory, curve: Curve) -> None:
    """Hold the smoothed losses in metrics.jsonl against the losses of the ledger, if the run has one.

    The smoothed loss is computed again from the ledger, so the two must have equal bits.  Steps that either of
    them lacks are not compared.
    Raises DamagedError with the first step that differs.
    """
    if not run.ledger_file.is_file():
        return
    ledger, smooth = LedgerReader(run.ledger_file), MovingAverage()
    recorded = ledger.array["present"] >> np.uint64(QUANTITIES.index("loss")) & np.uint64(1)
    losses = ledger.array["loss"]
    for place, step in enumerate(ledger.steps):
        if step == 0:
            continue
        if step > curve.steps or not recorded[place]:
            return
        expected, found = smooth.add(float(losses[place])), float(curve.loss_smooth[step - 1])
        if found != expected and not math.isnan(found):
            raise DamagedError(
                f"loss_smooth of step {step:,} must be that of the ledger's losses, {expected!r}, got {found!r}",
                where=str(run.metrics_file),
                hints=["restore metrics.jsonl from a copy, or leave the run out"],
            )


def check_comparable(groups: Sequence[Group]) -> None:
    """Check that runs are different and that their steps and tokens mean the same.  Raises InputError."""
    members = [member for group in groups for member in group.members]
    pair = first_equal_pair([member.curve.loss_smooth for member in members])
    if pair is not None:
        a, b = (members[place] for place in pair)
        raise InputError(
            f"runs must have different losses, got equal ones in {a.run.path} and {b.run.path}",
            hints=[
                "leave one of the two out: groups are of different seeds, or of hardware that gives other bits",
                f"`{command('llmrun', 'verify', a.run.path, b.run.path)}` compares their bits",
            ],
        )
    _check_same(members, "GB_tok", [m.record.config["batch"]["GB_tok"] for m in members], "their steps")
    _check_same(members, "tokenizer", [m.preimage("data")["tokenizer"] for m in members], "losses per token")


def _check_same(members: Sequence[Member], what: str, values: Sequence[Any], whose: str) -> None:
    """Raises InputError if a run has another value than the first one."""
    for member, value in zip(members, values, strict=True):
        if value != values[0]:
            raise InputError(
                f"cannot compare {member.name} with {members[0].name}: {what} must be the same for {whose}",
                caused_by=[f"{member.name} has {value}, {members[0].name} has {values[0]}"],
            )


def differing_within(group: Group) -> list[str]:
    """Differences within a group other than the seed: dotted keys and parts of the fingerprint."""
    first, found = group.members[0], set()
    for member in group.members[1:]:
        found |= _differing(first, member)
    return sorted(found)


def differing_between(a: Group, b: Group) -> list[str]:
    """Differences between the first runs of two groups other than the seed."""
    return sorted(_differing(a.members[0], b.members[0]))


def _differing(a: Member, b: Member) -> set[str]:
    """Dotted keys of the config with both values, and other parts by their names."""
    found = {
        f"{key} {old} → {new}"
        for key, old, new in leaf_differences(a.preimage("config"), b.preimage("config"))
        if key != "seed"
    }
    for part in ("data", "environment"):
        found |= {
            f"{part}.{key.split('.')[0]}"
            for key, _, _ in leaf_differences(a.preimage(part), b.preimage(part))
        }
    if leaf_differences(a.preimage("code"), b.preimage("code")):
        found.add("code")
    return found
