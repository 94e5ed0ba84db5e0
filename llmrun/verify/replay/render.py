"""A replay and a bisection as text: what was executed, what came out, and the most important line last."""

from collections.abc import Sequence

from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.render import labelled
from llmrun.verify.replay.bisect import Bisection
from llmrun.verify.replay.execute import RouteDone, SavedState
from llmrun.verify.replay.locate import Located, module_name
from llmrun.verify.replay.plan import FRACTIONS, Draw, escape_of
from llmrun.verify.replay.report import Replay
from llmrun.verify.replay.tensor_distance import Gap
from llmrun.verify.report import Finding

_SHOWN_MAX = 8


def lines_of_replay(replay: Replay) -> list[str]:
    """The screen of `llmrun verify RUN`."""
    verdict = replay.verdict
    return [
        *labelled("run", [verdict.a]),
        *labelled("fingerprint", said_fingerprints(verdict.fingerprints)),
        *labelled("windows", [] if replay.draw is None else [said_draw(replay.draw)]),
        *labelled("executed", [said_route(done, replay.D) for done in replay.routes]),
        *labelled("checkpoints", said_states(replay.saved_states)),
        *labelled("chain", [verdict.chain] if verdict.chain else []),
        *labelled("cost", [said_cost(done) for done in replay.routes[:_SHOWN_MAX]]),
        *labelled("escape", [] if replay.draw is None else escape_table(replay.draw)),
        *labelled("damage", verdict.damage),
        *labelled("note", verdict.notes),
        *(finding_rows(verdict.finding) if verdict.finding else []),
        last_line(replay),
    ]


def cut(texts: Sequence[str], noun: str) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(texts) - _SHOWN_MAX
    return [*texts[:_SHOWN_MAX], *([f"… and {more:,} more {noun}"] if more > 0 else [])]


def said_fingerprints(found: Fingerprints) -> list[str]:
    """Whether the steps were executed under the fingerprint that they were made under."""
    if not found.a:
        return []
    if found.equal:
        more = f" and {len(found.a) - 1} later" if len(found.a) > 1 else ""
        return [f"{found.a[0].digest}{more}, here as in the run"]
    changes = cut([str(change) for change in found.changes], "fields")
    return [f"here it differs in {', '.join(found.parts)}", *changes]


def said_draw(draw: Draw) -> str:
    """`3 of 50 windows of 20 steps, drawn by the run's chain and seed 0`."""
    return (
        f"{len(draw.windows):,} of {draw.n_blocks:,} windows of {draw.length:,} steps, drawn by the run's chain and "
        f"seed {draw.seed}: {', '.join(f'{first:,} to {last:,}' for first, last in draw.windows)}"
    )


def said_route(done: RouteDone, D: int) -> str:
    """`steps 121 to 140 on D = 1, from checkpoint step-00000120: 20 records equal`."""
    start = done.route.start
    source = "the initial weights" if start.path is None else f"checkpoint {start.path.name}"
    return (
        f"{said_range(start.step + 1, done.route.until_step)} on D = {D}, from {source}: "
        f"{done.n_equal:,} record{'' if done.n_equal == 1 else 's'} equal"
    )


def said_range(first: int, last: int) -> str:
    """`step 16`, `steps 121 to 140`."""
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def said_states(states: Sequence[SavedState]) -> list[str]:
    """The checkpoints that were met."""
    texts = [
        f"{state.name}: {state.n_tensors:,} tensors equal, byte by byte"
        if not state.differing
        else f"{state.name}: {len(state.differing):,} of {state.n_tensors:,} tensors differ"
        for state in states
    ]
    return cut(texts, "checkpoints")


def said_cost(done: RouteDone) -> str:
    """Seconds a step, here and in training, and what is not steps."""
    steps = done.n_equal + (done.difference is not None)
    here = "not known" if done.step_seconds is None else f"{done.step_seconds:.3g} s a step"
    then = done.training_step_seconds
    trained = "" if then is None else f", {then:.3g} s when it was trained"
    rest = done.wall_seconds - steps * (done.step_seconds or 0.0)
    return f"{here}{trained}; {max(rest, 0.0):.3g} s to start and end; {done.wall_seconds:.3g} s in all"


def escape_table(draw: Draw) -> list[str]:
    """How likely falsified steps are to lie in no drawn window."""
    lines = [f"{'falsified':>18}  {'in whole windows':>17}  {'each in its own':>16}"]
    for fraction in FRACTIONS:
        escape = escape_of(draw, fraction)
        what = f"{100 * fraction:g} % = {escape.n_falsified:,}"
        lines.append(f"{what:>18}  {percent(escape.at_most):>17}  {percent(escape.if_spread):>16}")
    return lines


def percent(chance: float) -> str:
    """A probability, never rounded to a certainty."""
    if 0 < chance < 1e-4:
        return f"{100 * chance:.1e} %"
    if 0.9999 < chance < 1:
        return f"{100 * chance:.6g} %"
    return f"{100 * chance:.3g} %"


def finding_rows(finding: Finding) -> list[str]:
    """What differs and what it means."""
    others = [name for name in finding.quantities if name != finding.quantity]
    tensors = cut(finding.tensors, "tensors")
    head = [f"{len(finding.tensors):,} differ after step {finding.tensors_step}:"] if tensors else []
    return [
        *labelled("also differ", [f"{', '.join(others)} at step {finding.step}"] if others else []),
        *labelled("tensors", [*head, *tensors]),
        *labelled("diagnosis", [finding.diagnosis] if finding.quantity else []),
    ]


def last_line(replay: Replay) -> str:
    """The verdict."""
    finding, verdict = replay.verdict.finding, replay.verdict
    if verdict.equal is None:
        return "nothing was compared: the ledger records nothing that tells bits of the executed steps"
    if finding is None:
        n = verdict.steps_compared
        return f"equal: {n:,} step{' comes' if n == 1 else 's come'} out with the bits that the run recorded"
    if finding.quantity is None or not replay.routes:
        return f"damaged: {finding.diagnosis}"
    return (
        f"different: step {finding.step:,} does not come out as it was recorded, first in {finding.quantity}"
    )


def lines_of_bisection(located: Located) -> list[str]:
    """The screen of `llmrun verify RUN --bisect`, and what `--bisect` adds to that of `llmrun verify A B`."""
    found = located.bisection
    if found is None:
        return [f"bisect: {located.message}"]
    return [
        *labelled("run", [] if located.two_runs else [located.verdict.a]),
        *labelled("executed", [said_steps(found)]),
        *labelled("settings", cut([str(change) for change in located.settings], "fields")),
        *labelled("records", [said_record(label, found) for label in found.recorded]),
        *labelled("first", said_entry(found)),
        *labelled("module", [] if found.entry is None else [module_name(found.entry.module)]),
        *labelled("note", located.notes),
        f"bisect: {located.message}",
    ]


def said_steps(found: Bisection) -> str:
    """`step 12 under the settings of A and of B: 345 tensors compared`."""
    steps = said_range(found.steps[0], found.steps[-1])
    how = "twice" if found.labels == ("first", "second") else "under the settings of A and of B"
    return f"{steps} {how}: {found.n_tensors:,} tensors compared"


def said_record(label: str, found: Bisection) -> str:
    """Whether an execution gives what a run recorded."""
    difference = found.recorded[label]
    who = f"the {label} execution" if found.labels == ("first", "second") else f"{label}'s settings"
    recorded = "the run" if found.labels == ("first", "second") else label
    if difference is None:
        return f"{who}: what {recorded} recorded"
    return f"{who}: not what {recorded} recorded, first in {difference.quantity} at step {difference.step:,}"


def said_entry(found: Bisection) -> list[str]:
    """The first tensor that differs, and how far."""
    entry = found.entry
    if entry is None:
        return []
    shape = "x".join(map(str, entry.shape)) or "scalar"
    return [
        f"{entry.what} [{shape}, {entry.dtype}], {entry.phase} pass of micro-batch {entry.micro_batch}, step {entry.step:,}",
        *([] if found.gap is None else [said_gap(found.gap)]),
    ]


def said_gap(gap: Gap) -> str:
    """`3 of 4,096 elements differ, by up to 1 ulp (2.4e-07); element 17: 0.1 and 0.2`."""
    ulps = "" if gap.ulps_max is None else f" {gap.ulps_max:,} ulp{'' if gap.ulps_max == 1 else 's'}"
    return (
        f"{gap.n_differing:,} of {gap.n_elements:,} elements differ, by up to{ulps} ({gap.absolute_max:.2g}); "
        f"element {gap.first_index:,}: {gap.a:.9g} and {gap.b:.9g}"
    )
