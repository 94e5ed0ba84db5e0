"""Executes steps of a run again and compares every record with its ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.core.parameter_groups import MOMENT_SUFFIXES
from llmrun.storage.ledger.compare import common_extent
from llmrun.storage.ledger.distance import Distance, growth
from llmrun.storage.ledger.explain import explain
from llmrun.text import listed
from llmrun.verify.differing_tensors import name_tensors
from llmrun.verify.fingerprints import FingerprintComparison, FingerprintSpan, compare_fingerprints
from llmrun.verify.operands import Operand
from llmrun.verify.replay.execute import ExecutedSteps, Executor, PlannedSteps, execute
from llmrun.verify.replay.plan import Draw, draw_windows
from llmrun.verify.replay.recorded_run import RecordedRun, open_recorded_run
from llmrun.verify.replay.report import ReplayReport
from llmrun.verify.report import Finding, Verdict

DEFAULT_STEPS = 20
"""Steps of a window by default."""


@dataclass(frozen=True)
class ReplayRequest:
    """Which steps to execute again.

    from_step: the step before them; None: that of the last checkpoint that has steps after it.
    steps:     the number of steps, or the length of each window.
    windows:   the number of windows to draw; None draws none.  seed: of the draw.
    """

    from_step: int | None = None
    steps: int = DEFAULT_STEPS
    windows: int | None = None
    seed: int = 0


def replay_run(path: Path, request: ReplayRequest, executor: Executor) -> ReplayReport:
    """Execute steps of the run at `path` again, up to the first difference.

    Raises InputError or RefusedError if they cannot be executed here, DamagedError if run.json contradicts itself,
    RunFailedError if the workers fail.
    """
    recorded = open_recorded_run(path)
    draw = None
    if request.windows is not None:
        chain = recorded.ledger.chain_at(recorded.last_step)
        after = recorded.step_before_first
        n_steps = recorded.last_step - after
        draw = draw_windows(chain, request.seed, n_steps, request.steps, request.windows, after=after)
    windows = [_window_of(recorded, request)] if draw is None else draw.windows
    executed: list[ExecutedSteps] = []
    finding = None
    for planned in plan_steps(recorded, windows):
        finding = _start_finding(planned)
        if finding is not None:
            break
        executed.append(execute(recorded, planned, executor))
        finding = _finding_of(recorded, executed[-1])
        if finding is not None:
            break
    return _conclude(recorded, draw, executed, finding)


def _window_of(recorded: RecordedRun, request: ReplayRequest) -> tuple[int, int]:
    """(first step, last step) of the request.  Raises InputError if the ledger has none of them."""
    after = request.from_step
    if after is None:
        after = recorded.start_at_or_before(recorded.last_step - 1).step
    recorded.check_step_after(after)
    return after + 1, min(after + request.steps, recorded.last_step)


def plan_steps(recorded: RecordedRun, windows: Sequence[tuple[int, int]]) -> list[PlannedSteps]:
    """The steps that reach all windows; windows with the same checkpoint before them are executed in one go."""
    found: dict[int, PlannedSteps] = {}
    for first, last in windows:
        start = recorded.start_at_or_before(first - 1)
        known = found.get(start.step)
        found[start.step] = PlannedSteps(start, last if known is None else max(last, known.until_step))
    return list(found.values())


def _start_finding(planned: PlannedSteps) -> Finding | None:
    """The finding if the checkpoint to start from is not the state that the ledger recorded."""
    start = planned.start
    if not start.unequal:
        return None
    assert start.path is not None
    quantities = tuple(name for name in ("optimizer", "weights") if name in start.unequal)
    return Finding(
        start.step,
        quantities[0] if quantities else None,
        f"checkpoint {start.path.name} is not the state that the ledger recorded: {', '.join(start.unequal)}",
        quantities,
        kind="damage",
    )


def _finding_of(recorded: RecordedRun, executed: ExecutedSteps) -> Finding | None:
    """The first difference of the executed steps, or of the checkpoints on their way, from the run."""
    fingerprints = fingerprints_of([executed])
    for compared in executed.checkpoints:
        if compared.differing:
            weights = tuple(name for name in compared.differing if not name.endswith(MOMENT_SUFFIXES))
            return Finding(
                compared.step,
                "weights" if weights else "optimizer",
                f"checkpoint {compared.name} is not the state that the steps before it lead to, although the "
                f"ledger is: {_meaning(fingerprints)}",
                ("optimizer", "weights") if len(weights) != len(compared.differing) else ("weights",),
                compared.differing,
                compared.step,
            )
    difference = executed.difference
    if difference is None:
        return None
    again = Operand("B", executed.last_segment.run.path, "run", executed.last_segment.ledger, None, {})
    named = name_tensors(recorded.operand, again, difference, difference.step)
    return Finding(
        step=difference.step,
        quantity=difference.quantity,
        diagnosis=f"{explain(difference)}; {_meaning(fingerprints)}",
        quantities=difference.quantities,
        tensors=named.names,
        tensors_step=named.step,
        tensors_quantity=named.quantity,
        elements=named.changes,
    )


def _meaning(fingerprints: FingerprintComparison) -> str:
    """What the fingerprints say about a difference from what is executed here."""
    if fingerprints.equal:
        return (
            "the fingerprint here is that of the run, so a record or a checkpoint was edited, hardware erred, or a "
            "kernel is not deterministic"
        )
    changes = listed([str(change) for change in fingerprints.changes], 3)
    verb = "differs" if len(fingerprints.parts) == 1 else "differ"
    return (
        f"{' and '.join(fingerprints.parts)} {verb} here from the run ({changes}): that may be the cause, so this "
        "proves nothing against the run"
    )


def fingerprints_of(executed: Sequence[ExecutedSteps]) -> FingerprintComparison:
    """The fingerprints of the executed steps: A as recorded, B as here."""
    environments = {id(found): found for steps in executed for found in steps.replay_environments}.values()
    recorded = tuple(
        FingerprintSpan(i, e.recorded.digest, e.recorded.parts, e.recorded.preimages)
        for i, e in enumerate(environments)
    )
    here = tuple(
        FingerprintSpan(i, e.here.digest, e.here.parts, e.here.preimages) for i, e in enumerate(environments)
    )
    return compare_fingerprints(recorded, here)


def _conclude(
    recorded: RecordedRun, draw: Draw | None, executed: list[ExecutedSteps], finding: Finding | None
) -> ReplayReport:
    """The verdict over all that was executed."""
    ranges = [(steps.planned.start.step, steps.n_equal) for steps in executed]
    n_equal = len({step for start, count in ranges for step in range(start + 1, start + count + 1)})
    last_step = max((start + count for start, count in ranges), default=0)
    damage = [] if finding is None or finding.kind != "damage" else [finding.diagnosis]
    if recorded.broken_step is not None:
        damage.append(f"record {recorded.broken_step} of the ledger does not hold: it was damaged or edited")
    damage += recorded.damage
    if finding is None and damage:
        finding = Finding(recorded.broken_step, None, damage[0], kind="damage")
    equal = [compared for steps in executed for compared in steps.checkpoints if not compared.differing]
    verdict = Verdict(
        a=str(recorded.run.path),
        b="replay",
        finding=finding,
        steps_compared=n_equal,
        quantities_compared=_quantities_of(recorded, executed, bool(equal)),
        complete=n_equal == recorded.ledger.last_step - recorded.step_before_first,
        last_step=last_step,
        ends=(recorded.ledger.last_step, last_step),
        fingerprints=fingerprints_of(executed),
        chain=recorded.ledger.chain_at(last_step).hex() if finding is None else None,
        checkpoints=tuple(compared.step for compared in equal),
        tensors_compared=sum(compared.n_tensors for compared in equal),
        distances=_distances_of(recorded, executed),
        damage=tuple(damage),
        notes=tuple(_notes_of(recorded)),
    )
    D = executed[-1].replay_environments[-1].resolved.batch.D if executed else 0
    return ReplayReport(verdict, tuple(executed), draw, D)


def _quantities_of(recorded: RecordedRun, executed: Sequence[ExecutedSteps], saved: bool) -> tuple[str, ...]:
    """The compared quantities: an execution records all, so they are those of the run's ledger.

    saved: whether checkpoints were compared too.
    """
    ranges = [
        range(steps.planned.start.step + 1, steps.planned.start.step + steps.n_equal + 1)
        for steps in executed
    ]
    found = [name for steps in ranges for name in common_extent(recorded.ledger, None, steps).quantities]
    return tuple(dict.fromkeys([*found, *(("optimizer", "weights") if saved else ())]))


def _distances_of(recorded: RecordedRun, executed: Sequence[ExecutedSteps]) -> dict[str, list[Distance]]:
    """The distances of loss and gradient norm at the first difference, which ends the replay."""
    last = executed[-1] if executed else None
    if last is None or last.difference is None or last.last_segment.ledger is None:
        return {}
    step, ledger = last.difference.step, last.last_segment.ledger
    rows = {name: growth(recorded.ledger, ledger, name, step, step) for name in ("loss", "grad_norm")}
    return {name: row for name, row in rows.items() if any(distance.ulps for distance in row)}


def _notes_of(recorded: RecordedRun) -> list[str]:
    notes = []
    if recorded.ledger.torn_step is not None:
        notes.append(
            f"the ledger ends within the record of step {recorded.ledger.torn_step}, which is left out"
        )
    if recorded.operand.running:
        notes.append("the run is in progress or was killed: the steps recorded so far were replayed")
    return notes
