"""Compares two groups of runs: equivalent within a margin, different, or not shown to be either."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmrun.errors import InputError
from llmrun.storage.metrics import names
from llmrun.text import listed
from llmrun.verify.statistical.curves import CurveComparison, compare_curves
from llmrun.verify.statistical.groups import (
    Group,
    check_comparable,
    differing_between,
    differing_within,
)
from llmrun.verify.statistical.hypothesis_tests import (
    Effect,
    MeansCompared,
    Sample,
    compare_means,
    hedges_g,
    holm,
    pooled_sd,
    seeds_needed,
)

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?"
_WRITTEN = re.compile(rf"({_NUMBER})\s*(%|nats?|)")
NATS_MAX = 10.0


@dataclass(frozen=True)
class Margin:
    """The largest difference that does not matter, as the user wrote it and in nats.

    One margin serves every measure: a difference of x nats in a mean loss is a factor of exp(x) in perplexity, so
    `1%` asks for perplexities whose ratio lies between 1/1.01 and 1.01.
    """

    text: str
    nats: float

    def show(self) -> str:
        """`±1 % of perplexity, ±0.00995 nats`."""
        return f"±{100 * math.expm1(self.nats):.3g} % of perplexity, ±{self.nats:.3g} nats"


def parse_margin(text: str) -> Margin:
    """`1%` of perplexity, or `0.01` nats (also `0.01 nats`).  Raises InputError."""
    found = _WRITTEN.fullmatch(text.strip())
    number = float(found.group(1)) if found else 0.0
    nats = math.log1p(number / 100.0) if found and found.group(4) == "%" else number
    if not 0.0 < nats <= NATS_MAX:
        raise InputError(
            f"--margin must be a positive percentage of perplexity or number of nats, got {text}",
            hints=["`--margin 1%`, or `--margin 0.01` (nats)"],
        )
    return Margin(text.strip(), nats)


@dataclass(frozen=True)
class ComparisonRequest:
    """The margin in nats, the error rate alpha, and the power wanted of planned groups."""

    margin: float
    alpha: float
    power: float


@dataclass(frozen=True)
class Measurement:
    """One quantity at one step in all runs of one or two groups.

    name: as in metrics.jsonl.  samples: by group, in nats (the logarithm of val_ppl, which is val_loss).
    """

    name: str
    step: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Measure:
    """The comparison of one quantity in two groups.

    p_equivalence, p_difference: after Holm's correction over all measures of the verdict.
    seeds_needed:    runs in each group that show equivalence with the wanted power if there is no difference;
                     seeds_at_difference: if the true difference is the observed one.  None: more than 10,000.
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
        """Whether the groups are shown to differ by less than the margin."""
        return self.p_equivalence <= self.alpha

    @property
    def is_different(self) -> bool:
        """Whether the groups are shown to differ."""
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
    """The smoothed loss at `step`, and the last val_ppl up to there that all runs have."""
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


def compare_measures(found: list[Measurement], request: ComparisonRequest) -> list[Measure]:
    """Compare baseline and candidate in every quantity, with Holm's correction over all of them."""
    compared = [
        compare_means(measured.samples[0], measured.samples[1], request.margin, request.alpha)
        for measured in found
    ]
    equivalence = holm([means.p_equivalence for means in compared])
    difference = holm([means.p_difference for means in compared])
    return [
        Measure(measured, means, Effect(None, None, None), p_equal, p_different, request.alpha, None, None)
        for measured, means, p_equal, p_different in zip(
            found, compared, equivalence, difference, strict=True
        )
    ]


def with_effect(measure: Measure, request: ComparisonRequest, n_measures: int) -> Measure:
    """`measure` with its effect size and the number of seeds needed.

    The seeds are for alpha / n_measures, the strictest level that Holm's correction can demand.
    """
    baseline, candidate = measure.measured.samples
    sd, level = pooled_sd(baseline, candidate), request.alpha / n_measures
    difference = abs(measure.means.difference)
    return replace(
        measure,
        effect=hedges_g(baseline, candidate, request.alpha),
        seeds_needed=seeds_needed(request.margin, sd, level, request.power),
        seeds_at_difference=seeds_needed(request.margin, sd, level, request.power, difference),
    )


LISTED = 5
"""Names in a list before it is cut."""

Answer = Literal["equivalent", "different", "not_shown"]


@dataclass(frozen=True)
class Comparison:
    """The verdict over two groups.

    step:      the last step that all runs have.
    complete:  whether all runs end there.
    measures:  of the final smoothed loss, and of val_ppl if all runs have it.
    differing: differences of the groups other than their seeds.
    notes:     limits of the comparison, one sentence each.
    """

    baseline: Group
    candidate: Group
    margin: Margin
    alpha: float
    power: float
    step: int
    complete: bool
    measures: list[Measure]
    curves: CurveComparison
    differing: list[str]
    notes: list[str]

    @property
    def answer(self) -> Answer:
        """Equivalent if every measure is; different if one is, and is not equivalent; otherwise `not_shown`."""
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
            "curves": self.curves.as_json(),
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
    """The verdict over all measures."""
    assert measures
    if all(measure.is_equivalent for measure in measures):
        return "equivalent"
    if any(measure.is_different and not measure.is_equivalent for measure in measures):
        return "different"
    return "not_shown"


def compare_groups(
    baseline: Group, candidate: Group, margin: Margin, alpha: float, power: float
) -> Comparison:
    """Compare two groups of runs at the last step that all of them have.

    Raises InputError if they cannot be compared.
    """
    groups = (baseline, candidate)
    check_comparable(groups)
    request = ComparisonRequest(margin.nats, alpha, power)
    step = last_common_step(groups)
    measures = compare_measures(measure_groups(groups, step), request)
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        margin=margin,
        alpha=alpha,
        power=power,
        step=step,
        complete=all(member.curve.steps == step for group in groups for member in group.members),
        measures=[with_effect(measure, request, len(measures)) for measure in measures],
        curves=compare_curves(baseline, candidate, step, alpha),
        differing=differing_between(baseline, candidate),
        notes=notes_of(groups, step, {measure.measured.name for measure in measures}),
    )


def last_common_step(groups: tuple[Group, ...]) -> int:
    """The last step that all runs have.  Raises InputError if a run has no finite loss there."""
    members = [member for group in groups for member in group.members]
    step = min(member.curve.steps for member in members)
    for member in members:
        if not math.isfinite(member.curve.loss_smooth[step - 1]):
            raise InputError(
                f"cannot compare {member.name}: loss_smooth is not finite at step {step:,}",
                where=str(member.run.metrics_file),
            )
    return step


def notes_of(groups: tuple[Group, ...], step: int, measured: set[str]) -> list[str]:
    """Notes on lengths, unfinished runs, mixed groups, single seeds, small groups and a missing val_ppl."""
    members = [member for group in groups for member in group.members]
    found = []
    longest = max(member.curve.steps for member in members)
    if longest > step:
        shortest = [member.name for member in members if member.curve.steps == step]
        found.append(f"compared at step {step:,} of {longest:,}: {listed(shortest, LISTED)} ended there")
    unfinished = [member.name for member in members if member.record.status not in ("finished", "reached")]
    if unfinished:
        found.append(f"not finished: {listed(unfinished, LISTED)}")
    for group in groups:
        mixed = differing_within(group)
        if mixed:
            found.append(f"the runs of the {group.label} differ from each other in {listed(mixed, LISTED)}")
        if len({member.seed for member in group.members}) == 1:
            found.append(
                f"all runs of the {group.label} have seed {group.members[0].seed}: their variance is not that of seeds"
            )
        if group.n < 5:
            found.append(f"{group.n} runs in the {group.label}: the estimate of its variance is uncertain")
    if names.VAL_PPL not in measured:
        found.append("val_ppl is not compared: the runs have no evaluation at one step on the same split")
    return found
