"""The screens of `llmrun equivalence`."""

from collections.abc import Iterable

from llmrun.storage.metrics import names
from llmrun.storage.metrics.names import perplexity
from llmrun.text import counted, listed
from llmrun.verify.render import ReportLine, Tone, labelled, prose, verdict_line
from llmrun.verify.statistical.equivalence import LISTED, Answer, Comparison, Measure
from llmrun.verify.statistical.groups import Group
from llmrun.verify.statistical.sample_size import SeedPlan

_TONES: dict[Answer, Tone] = {"equivalent": "good", "different": "bad", "not_shown": "neutral"}


def lines_of(found: Comparison) -> list[ReportLine]:
    """The comparison of two groups."""
    return [
        *labelled("baseline", [_group(found.baseline)]),
        *labelled("candidate", [_group(found.candidate)]),
        *prose("differ in", [listed(found.differing, LISTED) if found.differing else "nothing but seeds"]),
        *labelled(
            "compared",
            [
                (
                    f"at step {found.step:,}; margin {found.margin.show()}; "
                    f"alpha {found.alpha:g} over {counted(len(found.measures), 'measure')} (Holm)"
                )
            ],
        ),
        *(line for measure in found.measures for line in _measure(measure)),
        *labelled("curves", _curves(found)),
        *prose("note", found.notes),
        verdict_line(_verdict(found), _TONES[found.answer]),
    ]


def lines_of_plan(found: SeedPlan) -> list[ReportLine]:
    """The variance of a baseline, and the number of runs that margins need."""
    return [
        *labelled("baseline", [_group(found.baseline)]),
        *(
            line
            for measured in found.samples
            for line in labelled(
                measured.name,
                [
                    (
                        f"at step {measured.step:,}: {measured.samples[0].mean:.4f} ± {measured.samples[0].sd:.4f} "
                        f"(mean ± sd), {_unit(measured.name)}"
                    )
                ],
            )
        ),
        *labelled("runs needed", _needed(found)),
    ]


def _needed(found: SeedPlan) -> Iterable[str]:
    """A table of runs in each group by margin and measure."""
    yield f"in each group, to show equivalence with power {found.power:g} at alpha {found.alpha:g}:"
    columns = [measured.name for measured in found.samples]
    yield f"{'margin':<10}" + "".join(f"{name:>14}" for name in columns)
    for margin, needed in found.seeds:
        cells = [needed[name] for name in columns]
        shown = "".join(f"{'> 10,000' if cell is None else format(cell, ','):>14}" for cell in cells)
        yield f"{margin.text:<10}{shown}"


def _group(group: Group) -> str:
    """`5 runs, seeds 1, 2, 3, 4, 5: base-1, base-2, base-3 and 2 more`."""
    seeds = listed([str(member.seed) for member in group.members], LISTED)
    return f"{counted(group.n, 'run')}, seeds {seeds}: {listed(group.names, 3)}"


def _measure(measure: Measure) -> list[ReportLine]:
    """One measure: both groups, the difference, both tests, the effect size."""
    base, other = measure.measured.samples
    means = measure.means
    percent = 100.0 * (perplexity(means.difference) - 1.0)
    texts = [
        f"at step {measure.measured.step:,}, {_unit(measure.measured.name)}",
        f"baseline {base.mean:.4f} ± {base.sd:.4f}, candidate {other.mean:.4f} ± {other.sd:.4f} (mean ± sd)",
        (
            f"difference {means.difference:+.4f} nats, perplexity {percent:+.2f} %; "
            f"{1 - 2 * measure.alpha:.0%} interval {means.low:+.4f} … {means.high:+.4f}"
        ),
        (
            f"equivalent: {_shown(measure.is_equivalent)} (p = {measure.p_equivalence:.3g}); "
            f"different: {_shown(measure.is_different)} (p = {measure.p_difference:.3g})"
        ),
    ]
    effect = measure.effect
    if effect.g is not None:
        interval = f"{1 - measure.alpha:.0%} interval {effect.low:+.2f} … {effect.high:+.2f}"
        texts.append(f"effect size Hedges g {effect.g:+.2f}, {interval}")
    return labelled(measure.measured.name, texts)


def _unit(name: str) -> str:
    """The unit of a measure."""
    return "as its logarithm, nats per token" if name == names.VAL_PPL else "nats per token"


def _shown(value: bool) -> str:
    return "yes" if value else "not shown"


def _curves(found: Comparison) -> Iterable[str]:
    """The comparison before the last step: band and looks."""
    curves = found.curves
    shares = [100.0 * share for share in curves.outside.values()]
    mean = sum(shares) / len(shares)
    yield (
        f"candidate runs are outside the baseline's {1 - curves.alpha:.0%} band on {mean:.0f} % of the steps "
        f"({min(shares):.0f} to {max(shares):.0f} %; {100 * curves.alpha:.0f} % are expected)"
    )
    left = [step for step in curves.left_at.values() if step is not None]
    if left:
        yield (
            f"`monitor.baseline` would have warned of {len(left)} of {len(curves.left_at)}, first at step "
            f"{min(left):,}"
        )
    shown = [look.step for look in curves.looks if look.p_difference <= curves.alpha]
    if shown:
        yield (
            f"a difference is shown at {len(shown)} of {counted(len(curves.looks), 'look')} (Holm), "
            f"first at step {shown[0]:,}, last at step {shown[-1]:,}"
        )


def _verdict(found: Comparison) -> str:
    if found.answer == "equivalent":
        small = [measure for measure in found.measures if measure.is_different]
        but = " (a difference is shown too, but one smaller than the margin)" if small else ""
        return f"equivalent: every measure differs by less than the margin, {found.margin.show()}{but}"
    if found.answer == "different":
        parts = [
            f"{measure.measured.name} by {measure.means.difference:+.4f} nats"
            for measure in found.measures
            if measure.is_different and not measure.is_equivalent
        ]
        return f"different: {' and '.join(parts)}"
    return f"not shown equivalent, and not shown different: {_why_not_shown(found)}"


def _why_not_shown(found: Comparison) -> str:
    """Too few seeds, or a difference too close to the margin."""
    open_ones = [measure for measure in found.measures if not measure.is_equivalent]
    needed = [measure.seeds_needed for measure in open_ones]
    if any(count is None for count in needed):
        return "no number of seeds is enough for this --margin"
    count = max(count for count in needed if count is not None)
    fewest = min(found.baseline.n, found.candidate.n)
    if count > fewest:
        return (
            f"too few seeds: {count:,} runs in each group show equivalence with power {found.power:g} if there is no "
            "difference"
        )
    return (
        f"the observed difference is too close to the margin for {fewest} runs in each group; "
        "train more seeds, or state a wider --margin"
    )
