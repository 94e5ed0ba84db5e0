"""`llmrun verify --statistical`: are two groups of runs equivalent, different, or are there too few to tell."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from llmrun.errors import InputError
from llmrun.metrics import names
from llmrun.verify.statistical.course import Course, course_of
from llmrun.verify.statistical.groups import (
    Group,
    check_comparable,
    differing_between,
    differing_within,
)
from llmrun.verify.statistical.margin import Margin
from llmrun.verify.statistical.measures import Asked, Measure, judge, measure_groups, with_effect

Answer = Literal["equivalent", "different", "not_shown"]


@dataclass(frozen=True)
class Comparison:
    """The verdict over two groups.

    step:      the last step that all runs have.
    measures:  the final smoothed loss, and val_ppl where all runs have it.
    differing: what the groups differ in beside their seeds.
    notes:     what the reader should know before believing it.
    """

    baseline: Group
    candidate: Group
    margin: Margin
    alpha: float
    power: float
    step: int
    complete: bool
    measures: list[Measure]
    course: Course
    differing: list[str]
    notes: list[str]

    @property
    def answer(self) -> Answer:
        """Equivalent where every measure is; different where one is shown to be, and not to be equivalent."""
        return answer_of(self.measures)

    def as_json(self) -> dict[str, Any]:
        """The verdict with stable keys."""
        return {
            "mode": "statistical",
            "verdict": self.answer,
            "equivalent": self.answer == "equivalent",
            "margin": {"text": self.margin.text, "nats": self.margin.nats},
            "alpha": self.alpha,
            "power": self.power,
            "step": self.step,
            "complete": self.complete,
            "baseline": group_json(self.baseline),
            "candidate": group_json(self.candidate),
            "differing": self.differing,
            "measures": [measure.as_json() for measure in self.measures],
            "course": self.course.as_json(),
            "notes": self.notes,
        }


def group_json(group: Group) -> dict[str, Any]:
    """A group with stable keys."""
    return {
        "n": group.n,
        "runs": [
            {"run": str(member.run.path), "seed": member.seed, "last_step": member.curve.steps}
            for member in group.members
        ],
    }


def answer_of(measures: list[Measure]) -> Answer:
    """The verdict over all measures; no measure is left out of it."""
    assert measures
    if all(measure.is_equivalent for measure in measures):
        return "equivalent"
    if any(measure.is_different and not measure.is_equivalent for measure in measures):
        return "different"
    return "not_shown"


def compare_groups(
    baseline: Group, candidate: Group, margin: Margin, alpha: float, power: float
) -> Comparison:
    """Compare two groups of runs over the steps that all of them have.

    Raises InputError where they cannot be compared.
    """
    groups = (baseline, candidate)
    check_comparable(groups)
    asked = Asked(margin.nats, alpha, power)
    step = last_common_step(groups)
    measures = judge(measure_groups(groups, step), asked)
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        margin=margin,
        alpha=alpha,
        power=power,
        step=step,
        complete=all(member.curve.steps == step for group in groups for member in group.members),
        measures=[with_effect(measure, asked, len(measures)) for measure in measures],
        course=course_of(baseline, candidate, step, alpha),
        differing=differing_between(baseline, candidate),
        notes=notes_of(groups, step, {measure.measured.name for measure in measures}),
    )


def last_common_step(groups: tuple[Group, ...]) -> int:
    """The last step that all runs have.  Raises InputError where a run lacks its loss there."""
    members = [member for group in groups for member in group.members]
    step = min(member.curve.steps for member in members)
    for member in members:
        if not math.isfinite(member.curve.loss_smooth[step - 1]):
            raise InputError(f"{member.run.metrics_file} has no loss_smooth at step {step:,}")
    return step


def notes_of(groups: tuple[Group, ...], step: int, measured: set[str]) -> list[str]:
    """What the reader should know: lengths, unfinished runs, mixed groups, single seeds, a missing val_ppl."""
    members = [member for group in groups for member in group.members]
    found = []
    longest = max(member.curve.steps for member in members)
    if longest > step:
        shortest = [member.name for member in members if member.curve.steps == step]
        found.append(f"compared at step {step:,} of {longest:,}: {listed(shortest)} ended there")
    unfinished = [member.name for member in members if member.record.status not in ("finished", "reached")]
    if unfinished:
        found.append(f"not finished: {listed(unfinished)}")
    for group in groups:
        mixed = differing_within(group)
        if mixed:
            found.append(f"the runs of the {group.label} differ among themselves in {listed(mixed)}")
        if len({member.seed for member in group.members}) == 1:
            found.append(
                f"all runs of the {group.label} have seed {group.members[0].seed}: their scatter is not that of seeds"
            )
        if group.n < 5:
            found.append(f"{group.n} runs in the {group.label}: its scatter is itself little known")
    if names.VAL_PPL not in measured:
        found.append("val_ppl is not compared: not all runs were evaluated at one step on the same split")
    return found


def listed(entries: list[str], most: int = 5) -> str:
    """The first entries, and how many more."""
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return ", ".join(entries[:most]) + more
