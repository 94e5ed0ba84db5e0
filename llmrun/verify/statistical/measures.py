"""What is compared at the end of two groups of runs, and how each comparison came out."""

import math
from dataclasses import dataclass, replace
from typing import Any

from llmrun.metrics import names
from llmrun.verify.statistical.effect import Effect, hedges_g
from llmrun.verify.statistical.equivalence import MeansCompared, Sample, compare_means
from llmrun.verify.statistical.groups import Group
from llmrun.verify.statistical.holm import holm
from llmrun.verify.statistical.power import seeds_needed


@dataclass(frozen=True)
class Asked:
    """What the user asks: margin in nats, error rate alpha, and the power that planned groups shall have."""

    margin: float
    alpha: float
    power: float


@dataclass(frozen=True)
class Measured:
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

    measured: Measured
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


def measure_groups(groups: tuple[Group, ...], step: int) -> list[Measured]:
    """The final smoothed loss at `step`, and the last val_ppl up to there that every run has."""
    found = [
        Measured(
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
        found.append(Measured(names.VAL_PPL, evaluated, values))
    return found


def common_evaluation(groups: tuple[Group, ...], step: int) -> int | None:
    """The last step up to `step` at which all runs were evaluated on the same validation split."""
    members = [member for group in groups for member in group.members]
    if any(member.preimage("data")["val"] != members[0].preimage("data")["val"] for member in members):
        return None
    everywhere = set.intersection(*(set(member.curve.evaluations) for member in members))
    finite = [s for s in everywhere if all(math.isfinite(m.curve.evaluations[s]) for m in members)]
    return max((s for s in finite if s <= step), default=None)


def judge(found: list[Measured], asked: Asked) -> list[Measure]:
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


def with_effect(measure: Measure, asked: Asked, n_measures: int) -> Measure:
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
