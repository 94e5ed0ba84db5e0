"""Two groups of runs compared: at the end, on the way, and the conclusion."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from llmrun.errors import InputError
from llmrun.storage.metrics import names
from llmrun.storage.metrics.loss_band import Band, band_of, first_left
from llmrun.verify.statistical.groups import (
    Group,
    check_comparable,
    differing_between,
    differing_within,
)
from llmrun.verify.statistical.margin import Margin
from llmrun.verify.statistical.tests import (
    Effect,
    MeansCompared,
    Sample,
    compare_means,
    hedges_g,
    holm,
    seeds_needed,
)


@dataclass(frozen=True)
class ComparisonRequest:
    """What the user asks: margin in nats, error rate alpha, and the power that planned groups shall have."""

    margin: float
    alpha: float
    power: float


@dataclass(frozen=True)
class Measurement:
    """One quantity at one step in all runs of a group or two.

    name: as in metrics.jsonl.  samples: nats; of val_ppl the logarithm, which is val_loss.
    """

    name: str
    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Measure:
    """One comparison.

    p_equivalence, p_difference: after Holm's correction over all measures of the verdict.
    seeds_needed:    runs in each group that would show equivalence with the wanted power if there is no
                     difference at all; seeds_at_difference: if the true difference is the one found.  None: never.
    """

    measured: Measurement
    means: MeansCompared
    effect: Effect
    p_equivalence: float
    p_difference: float
    alpha: float
    seeds_needed: int | None
    seeds_at_difference: int | None

    @property
    def is_equivalent(self) -> bool:
        """Shown to differ by less than the margin."""
        return self.p_equivalence <= self.alpha

    @property
    def is_different(self) -> bool:
        """Shown to differ at all."""
        return self.p_difference <= self.alpha

    def as_json(self) -> dict[str, Any]:
        """The comparison with stable keys, in nats."""
        baseline, candidate = self.measured.samples
        return {
            "name": self.measured.name,
            "step": self.measured.step,
            "unit": "nats",
            "baseline_mean": baseline.mean,
            "baseline_sd": baseline.sd,
            "candidate_mean": candidate.mean,
            "candidate_sd": candidate.sd,
            "difference": self.means.difference,
            "perplexity_ratio": names.perplexity(self.means.difference),
            "interval": [self.means.low, self.means.high],
            "interval_confidence": 1.0 - 2.0 * self.alpha,
            "standard_error": self.means.error,
            "df": self.means.df,
            "p_equivalence": self.means.p_equivalence,
            "p_equivalence_holm": self.p_equivalence,
            "p_difference": self.means.p_difference,
            "p_difference_holm": self.p_difference,
            "equivalent": self.is_equivalent,
            "different": self.is_different,
            "hedges_g": self.effect.g,
            "hedges_g_interval": None if self.effect.g is None else [self.effect.low, self.effect.high],
            "seeds_needed": self.seeds_needed,
            "seeds_needed_at_difference": self.seeds_at_difference,
        }


def measure_groups(groups: tuple[Group, ...], step: int) -> list[Measurement]:
    """The final smoothed loss at `step`, and the last val_ppl up to there that every run has."""
    found = [
        Measurement(
            names.LOSS_SMOOTH,
            step,
            tuple(
                Sample.of([float(m.curve.loss_smooth[step - 1]) for m in group.members]) for group in groups
            ),
        )
    ]
    evaluated = common_evaluation(groups, step)
    if evaluated is not None:
        values = tuple(Sample.of([m.curve.evaluations[evaluated] for m in group.members]) for group in groups)
        found.append(Measurement(names.VAL_PPL, evaluated, values))
    return found


def common_evaluation(groups: tuple[Group, ...], step: int) -> int | None:
    """The last step up to `step` at which all runs were evaluated on the same validation split."""
    members = [member for group in groups for member in group.members]
    if any(member.preimage("data")["val"] != members[0].preimage("data")["val"] for member in members):
        return None
    everywhere = set.intersection(*(set(member.curve.evaluations) for member in members))
    finite = [s for s in everywhere if all(math.isfinite(m.curve.evaluations[s]) for m in members)]
    return max((s for s in finite if s <= step), default=None)


def judge(found: list[Measurement], asked: ComparisonRequest) -> list[Measure]:
    """Compare baseline and candidate in every quantity, with Holm's correction over all of them."""
    compared = [
        compare_means(measured.samples[0], measured.samples[1], asked.margin, asked.alpha)
        for measured in found
    ]
    equivalence = holm([means.p_equivalence for means in compared])
    difference = holm([means.p_difference for means in compared])
    return [
        Measure(measured, means, Effect(None, None, None), p_equal, p_different, asked.alpha, None, None)
        for measured, means, p_equal, p_different in zip(
            found, compared, equivalence, difference, strict=True
        )
    ]


def with_effect(measure: Measure, asked: ComparisonRequest, n_measures: int) -> Measure:
    """`measure` with its effect size and the seeds that it would take.

    The seeds are counted at alpha / n_measures, the strictest level that Holm's correction may demand.
    """
    baseline, candidate = measure.measured.samples
    sd, level = pooled_sd(baseline, candidate), asked.alpha / n_measures
    difference = abs(measure.means.difference)
    return replace(
        measure,
        effect=hedges_g(baseline, candidate, asked.alpha),
        seeds_needed=seeds_needed(asked.margin, sd, level, asked.power),
        seeds_at_difference=seeds_needed(asked.margin, sd, level, asked.power, difference),
    )


def pooled_sd(*samples: Sample) -> float:
    """The standard deviation from run to run within groups."""
    df = sum(sample.n - 1 for sample in samples)
    return math.sqrt(sum((sample.n - 1) * sample.sd**2 for sample in samples) / df)


LOOKS = 20


@dataclass(frozen=True)
class Look:
    """The difference of the mean smoothed losses at one step, nats; p_difference after Holm over all looks."""

    step: int
    difference: float
    p_difference: float


@dataclass(frozen=True)
class Course:
    """The smoothed losses from the first step to the last common one.

    band:    of the baseline.
    outside: for each run of the candidate the share of its steps outside the band; 1 - confidence is expected.
    left_at: for each run the step at which the live monitor would have warned; None where it would not.
    looks:   the difference at evenly spaced steps, the last included.
    """

    band: Band
    outside: dict[str, float]
    left_at: dict[str, int | None]
    looks: list[Look]
    alpha: float

    @property
    def first_different(self) -> int | None:
        """The first look at which the groups differ."""
        return next((look.step for look in self.looks if look.p_difference <= self.alpha), None)

    def as_json(self) -> dict[str, Any]:
        """The course with stable keys."""
        return {
            "band": {
                "confidence": 1.0 - self.alpha,
                "runs": self.band.n,
                "steps": self.band.steps,
                "expected_outside": self.alpha,
            },
            "candidates": [
                {"run": name, "outside": share, "left_band_at": self.left_at[name]}
                for name, share in self.outside.items()
            ],
            "looks": [vars(look) for look in self.looks],
            "first_different_look": self.first_different,
        }


def course_of(baseline: Group, candidate: Group, step: int, alpha: float) -> Course:
    """The course of two groups up to `step`, which all runs have."""
    base = np.stack([member.curve.loss_smooth[:step] for member in baseline.members])
    other = np.stack([member.curve.loss_smooth[:step] for member in candidate.members])
    band = band_of(list(base))
    half = band.half_width(alpha)
    with np.errstate(invalid="ignore"):
        out = np.abs(other - band.mean) > half
    steps = sorted({max(1, round(step * look / LOOKS)) for look in range(1, LOOKS + 1)})
    return Course(
        band=band,
        outside={name: float(row.mean()) for name, row in zip(candidate.names, out, strict=True)},
        left_at={name: first_left(band, row) for name, row in zip(candidate.names, other, strict=True)},
        looks=_looks(base, other, steps),
        alpha=alpha,
    )


def _looks(base: np.ndarray, other: np.ndarray, steps: list[int]) -> list[Look]:
    """Welch's test at each of the steps, corrected over all; steps that a run lacks are left out.

    base, other: [runs, steps], float64, nats.
    """
    whole = [s for s in steps if np.isfinite(base[:, s - 1]).all() and np.isfinite(other[:, s - 1]).all()]
    compared = [
        compare_means(Sample.of(base[:, s - 1].tolist()), Sample.of(other[:, s - 1].tolist()), 1.0, 0.05)
        for s in whole
    ]
    adjusted = holm([means.p_difference for means in compared])
    return [Look(s, means.difference, p) for s, means, p in zip(whole, compared, adjusted, strict=True)]


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
    asked = ComparisonRequest(margin.nats, alpha, power)
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
