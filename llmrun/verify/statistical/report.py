"""What the statistical verdict says to a reader."""

from collections.abc import Iterator

from llmrun.storage.metrics import names
from llmrun.storage.metrics.names import perplexity
from llmrun.text import counted
from llmrun.verify.statistical.compare import Comparison, Measure, listed
from llmrun.verify.statistical.groups import Group
from llmrun.verify.statistical.sample_size import SeedPlan


def lines_of(found: Comparison) -> Iterator[str]:
    """The comparison; the verdict is the last line."""
    for group in (found.baseline, found.candidate):
        yield group_line(group)
    yield f"differing: {listed(found.differing)}" if found.differing else "differing: nothing but seeds"
    yield (
        f"compared at step {found.step:,}; margin {found.margin.show()}; "
        f"alpha {found.alpha:g} over {counted(len(found.measures), 'measure')} (Holm)"
    )
    yield ""
    for measure in found.measures:
        yield from measure_lines(measure)
    yield from course_lines(found)
    for note in found.notes:
        yield f"note: {note}"
    yield ""
    yield verdict_line(found)


def group_line(group: Group) -> str:
    """`baseline: 5 runs, seeds 1, 2, 3, 4, 5 (base-1 … base-5)`."""
    seeds = listed([str(member.seed) for member in group.members])
    return f"{group.label}: {group.n} runs, seeds {seeds}: {listed(group.names, 3)}"


def measure_lines(measure: Measure) -> Iterator[str]:
    """One measure: both groups, the difference, both tests, the effect."""
    base, other = measure.measured.samples
    means = measure.means
    percent = 100.0 * (perplexity(means.difference) - 1.0)
    yield f"{measure.measured.name} at step {measure.measured.step:,}, {unit_of(measure.measured.name)}"
    yield f"  baseline   {base.mean:.4f} ± {base.sd:.4f}    candidate {other.mean:.4f} ± {other.sd:.4f}  (mean ± sd)"
    yield (
        f"  difference {means.difference:+.4f} nats, perplexity {percent:+.2f} %;  "
        f"{1 - 2 * measure.alpha:.0%} interval {means.low:+.4f} … {means.high:+.4f}"
    )
    yield (
        f"  equivalent: {yes_or_no(measure.is_equivalent)} (p = {measure.p_equivalence:.3g})    "
        f"different: {yes_or_no(measure.is_different)} (p = {measure.p_difference:.3g})"
    )
    if measure.effect.g is not None:
        yield (
            f"  effect     Hedges g {measure.effect.g:+.2f}, "
            f"{1 - measure.alpha:.0%} interval {measure.effect.low:+.2f} … {measure.effect.high:+.2f}"
        )


def unit_of(name: str) -> str:
    """What the numbers of a measure are."""
    return "as its logarithm, nats per token" if name == names.VAL_PPL else "nats per token"


def yes_or_no(value: bool) -> str:
    """A truth value in words."""
    return "yes" if value else "not shown"


def course_lines(found: Comparison) -> Iterator[str]:
    """The way to the end: band and looks."""
    course = found.course
    shares = [100.0 * share for share in course.outside.values()]
    mean = sum(shares) / len(shares)
    yield (
        f"course: candidate runs are outside the baseline's {1 - course.alpha:.0%} band on {mean:.0f} % of the steps "
        f"({min(shares):.0f} to {max(shares):.0f} %; {100 * course.alpha:.0f} % are expected)"
    )
    left = [step for step in course.left_at.values() if step is not None]
    if left:
        yield (
            f"  {len(left)} of {len(course.left_at)} would have been warned of while training, "
            f"the first at step {min(left):,}"
        )
    shown = [look.step for look in course.looks if look.p_difference <= course.alpha]
    if shown:
        yield (
            f"  a difference is shown at {len(shown)} of {len(course.looks)} looks on the way (Holm), "
            f"first at step {shown[0]:,}, last at step {shown[-1]:,}"
        )


def verdict_line(found: Comparison) -> str:
    """The verdict in one sentence."""
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
    return f"not shown equivalent, and not shown different: {why_not_shown(found)}"


def why_not_shown(found: Comparison) -> str:
    """Too few seeds, or a difference too near the margin."""
    open_ones = [measure for measure in found.measures if not measure.is_equivalent]
    needed = [measure.seeds_needed for measure in open_ones]
    if any(count is None for count in needed):
        return "no number of seeds would do; state a wider --margin"
    count = max(count for count in needed if count is not None)
    fewest = min(found.baseline.n, found.candidate.n)
    if count > fewest:
        return (
            f"too few seeds: with {count:,} runs in each group there is a chance of {found.power:.0%} "
            f"to show it, if there is no difference"
        )
    return (
        f"with {fewest} runs in each group the difference found is too near the margin; "
        "train more seeds, or state a wider --margin"
    )


def plan_lines(found: SeedPlan) -> Iterator[str]:
    """The scatter of a baseline and the seeds that margins take."""
    yield group_line(found.baseline)
    for measured in found.scatter:
        (sample,) = measured.samples
        yield (
            f"{measured.name} at step {measured.step:,}: {sample.mean:.4f} ± {sample.sd:.4f} "
            f"(mean ± sd), {unit_of(measured.name)}"
        )
    yield ""
    yield f"runs in each group that show equivalence with a chance of {found.power:.0%}, alpha {found.alpha:g}:"
    columns = [measured.name for measured in found.scatter]
    yield f"  {'margin':<10}" + "".join(f"{name:>14}" for name in columns)
    for margin, needed in found.seeds:
        cells = [needed[name] for name in columns]
        shown = "".join(f"{'> 10,000' if cell is None else format(cell, ','):>14}" for cell in cells)
        yield f"  {margin.text:<10}{shown}"
