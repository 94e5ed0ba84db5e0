"""The screens of `llmrun replay` and `llmrun bisect`."""

from collections.abc import Sequence

from llmrun.text import counted, cut
from llmrun.verify.fingerprints import FingerprintComparison
from llmrun.verify.render import (
    TONES,
    ReportLine,
    change_lines,
    closing_lines,
    fingerprint_text,
    labelled,
    prose,
    verdict_line,
)
from llmrun.verify.render import lines_of as lines_of_verdict
from llmrun.verify.replay.execute import ComparedCheckpoint, ExecutedSteps
from llmrun.verify.replay.plan import FRACTIONS, Draw, escape_of
from llmrun.verify.replay.report import Bisection, BisectReport, ReplayReport, module_name
from llmrun.verify.tensor_distance import ElementDistance

_SHOWN_MAX = 8


def lines_of_replay(replay: ReplayReport) -> list[ReportLine]:
    """The screen of `llmrun replay`."""
    verdict, draw = replay.verdict, replay.draw
    costs = [_cost(steps) for steps in replay.executed]
    return [
        *labelled("run", [verdict.a]),
        *labelled("fingerprint", _fingerprints(verdict.fingerprints)),
        *labelled("windows", [] if draw is None else [_draw(draw)]),
        *labelled("executed", [_executed(steps, replay.D) for steps in replay.executed]),
        *labelled("checkpoints", _checkpoints(replay.checkpoints)),
        *labelled("chain", [verdict.chain] if verdict.chain else []),
        *labelled("cost", cut(costs, _SHOWN_MAX)),
        *labelled("escape", [] if draw is None else _escape_table(draw)),
        *closing_lines(verdict),
        verdict_line(_replay_verdict(replay), TONES[verdict.outcome]),
    ]


def _fingerprints(found: FingerprintComparison) -> list[str]:
    """Whether the steps were executed under the fingerprint that they were made under."""
    if not found.a:
        return []
    if found.equal:
        return [f"{fingerprint_text(found)}, the same here as in the run"]
    return [f"differs here in {', '.join(found.parts)}", *change_lines(found)]


def _draw(draw: Draw) -> str:
    """`3 of 50 windows of 20 steps, drawn by the run's chain and seed 0: 1 to 20, …`."""
    windows = ", ".join(f"{first:,} to {last:,}" for first, last in draw.windows)
    return (
        f"{len(draw.windows):,} of {draw.n_blocks:,} windows of {counted(draw.length, 'step')}, drawn by the run's "
        f"chain and seed {draw.seed}: {windows}"
    )


def _executed(steps: ExecutedSteps, D: int) -> str:
    """`steps 121 to 140 on D = 1, from checkpoint step-00000120: 20 records equal`."""
    start = steps.planned.start
    source = "the initial weights" if start.path is None else f"checkpoint {start.path.name}"
    return (
        f"{_step_range(start.step + 1, steps.planned.until_step)} on D = {D}, from {source}: "
        f"{counted(steps.n_equal, 'record')} equal"
    )


def _step_range(first: int, last: int) -> str:
    """`step 16`, `steps 121 to 140`."""
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def _checkpoints(checkpoints: Sequence[ComparedCheckpoint]) -> list[str]:
    """The result of comparing executed states with the run's checkpoints."""
    texts = [
        f"{compared.name}: {counted(compared.n_tensors, 'tensor')} equal, byte by byte"
        if not compared.differing
        else f"{compared.name}: {len(compared.differing):,} of {counted(compared.n_tensors, 'tensor')} differ"
        for compared in checkpoints
    ]
    return cut(texts, _SHOWN_MAX)


def _cost(steps: ExecutedSteps) -> str:
    """Seconds per step, here and in training, and seconds outside steps."""
    n_steps = steps.n_equal + (steps.difference is not None)
    here = "unknown time per step" if steps.step_seconds is None else f"{steps.step_seconds:.3g} s per step"
    then = steps.training_step_seconds
    trained = "" if then is None else f", {then:.3g} s in training"
    rest = steps.wall_seconds - n_steps * (steps.step_seconds or 0.0)
    return f"{here}{trained}; {max(rest, 0.0):.3g} s to start and end; {steps.wall_seconds:.3g} s in total"


def _escape_table(draw: Draw) -> list[str]:
    """The probability that falsified steps are in no drawn window."""
    lines = [f"{'falsified':>18}  {'in whole windows':>17}  {'each in its own':>16}"]
    for fraction in FRACTIONS:
        escape = escape_of(draw, fraction)
        what = f"{100 * fraction:g} % = {escape.n_falsified:,}"
        lines.append(f"{what:>18}  {percent(escape.at_most):>17}  {percent(escape.if_spread):>16}")
    return lines


def percent(probability: float) -> str:
    """A probability in per cent, never rounded to 0 or 1."""
    if 0 < probability < 1e-4:
        return f"{100 * probability:.1e} %"
    if 0.9999 < probability < 1:
        return f"{100 * probability:.6g} %"
    return f"{100 * probability:.3g} %"


def _replay_verdict(replay: ReplayReport) -> str:
    finding, verdict = replay.verdict.finding, replay.verdict
    if verdict.outcome == "nothing_compared":
        return "nothing was compared: the ledger holds no result of the executed steps"
    if finding is None:
        return f"equal: the recorded bits of {counted(verdict.steps_compared, 'step')} are reproduced"
    if finding.kind != "difference":
        return f"{verdict.outcome}: {finding.diagnosis}"
    return f"different: step {finding.step:,} is not reproduced, first in {finding.quantity}"


def lines_of_bisection(report: BisectReport) -> list[ReportLine]:
    """The screen of `llmrun bisect`; for two runs it begins with that of `llmrun verify`."""
    found = report.bisection
    before = lines_of_verdict(report.verdict)[:-1] if report.two_runs else []
    last = verdict_line(f"bisect: {report.message}", TONES[report.verdict.outcome])
    if found is None:
        return [*before, last]
    return [
        *before,
        *labelled("run", [] if report.two_runs else [report.verdict.a]),
        *labelled("executed", [_executions(found)]),
        *labelled("settings", cut([str(change) for change in report.settings], _SHOWN_MAX)),
        *labelled("records", [_reproduced(label, found) for label in found.recorded]),
        *labelled("first", _first_tensor(found)),
        *labelled("module", [] if found.entry is None else [module_name(found.entry.module)]),
        *prose("note", [] if report.two_runs else report.notes),
        last,
    ]


def _executions(found: Bisection) -> str:
    """`step 12 under the settings of A and of B: 345 tensors compared`."""
    how = "twice" if found.same_settings else "under the settings of A and of B"
    steps = _step_range(found.steps[0], found.steps[-1])
    return f"{steps} {how}: {counted(found.n_tensors, 'tensor')} compared"


def _reproduced(label: str, found: Bisection) -> str:
    """Whether an execution gives what a run recorded."""
    difference = found.recorded[label]
    execution = f"the {label} execution" if found.same_settings else f"the settings of {label}"
    record = "the record" if found.same_settings else f"the record of {label}"
    if difference is None:
        return f"{execution}: {record} is reproduced"
    return (
        f"{execution}: {record} is not reproduced, first in {difference.quantity} at step {difference.step:,}"
    )


def _first_tensor(found: Bisection) -> list[str]:
    """The first tensor that differs, and its distance."""
    entry = found.entry
    if entry is None:
        return []
    shape = "x".join(map(str, entry.shape)) or "scalar"
    return [
        f"{entry.what} [{shape}, {entry.dtype}], {entry.phase} pass of micro-batch {entry.micro_batch}, step {entry.step:,}",
        *([] if found.distance is None else [_distance(found.distance)]),
    ]


def _distance(distance: ElementDistance) -> str:
    """`3 of 4,096 elements differ, by up to 1 ulp (2.4e-07); element 17: 0.1 and 0.2`."""
    ulps = "" if distance.ulps_max is None else f" {counted(distance.ulps_max, 'ulp')}"
    return (
        f"{distance.n_differing:,} of {counted(distance.n_elements, 'element')} differ, by up to{ulps} "
        f"({distance.absolute_max:.2g}); element {distance.first_index:,}: {distance.a:.9g} and {distance.b:.9g}"
    )
