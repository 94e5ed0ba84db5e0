"""`llmrun verify RUN`: executes steps of a run again and compares every record with its ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import InputError, Place
from llmrun.storage.ledger.compare import common_extent
from llmrun.storage.ledger.distance import Distance, growth
from llmrun.storage.ledger.explain import explain
from llmrun.verify.fingerprints import Era, Fingerprints, compare_eras
from llmrun.verify.operands import Operand
from llmrun.verify.replay.execute import Crew, Route, RouteDone, execute
from llmrun.verify.replay.plan import Draw, draw_windows
from llmrun.verify.replay.recorded_run import Audited, open_audited
from llmrun.verify.replay.report import Replay
from llmrun.verify.report import Finding, Verdict
from llmrun.verify.tensor_diff import name_tensors

DEFAULT_STEPS = 20
"""Steps of a window where the user does not say."""


@dataclass(frozen=True)
class Wish:
    """Which steps to execute again.

    from_step: steps `from_step` + 1 and on; None: those after the last checkpoint that has steps after it.
    steps:     how many, or the length of each window.
    windows:   how many windows to draw; None draws none.  seed: of the draw.
    """

    from_step: int | None = None
    steps: int = DEFAULT_STEPS
    windows: int | None = None
    seed: int = 0


def verify_replay(path: Path, wish: Wish, crew: Crew) -> Replay:
    """Execute steps of the run at `path` again.

    Raises InputError, RefusedError where they cannot be executed here, DamagedError where run.json does not hold,
    RunFailedError where the workers fail.
    """
    audited = open_audited(path)
    draw = None
    if wish.windows is not None:
        chain = audited.ledger.chain_at(audited.last_step)
        draw = draw_windows(chain, wish.seed, audited.last_step, wish.steps, wish.windows)
    routes = routes_of(audited, [window_of(audited, wish)] if draw is None else draw.windows)
    done: list[RouteDone] = []
    finding = None
    for route in routes:
        finding = start_finding(route)
        if finding is not None:
            break
        done.append(execute(audited, route, crew))
        finding = route_finding(audited, done[-1])
        if finding is not None:
            break
    return conclude(audited, draw, done, finding)


def window_of(audited: Audited, wish: Wish) -> tuple[int, int]:
    """(first step, last step) that the user asks for.  Raises InputError where the ledger has none of them."""
    if wish.from_step is None:
        after = audited.start_at_or_before(audited.last_step - 1).step
    elif wish.from_step >= audited.last_step:
        raise InputError(
            f"there is no step after {wish.from_step:,} on record: the ledger of {audited.run.name} "
            f"{'holds' if audited.broken_step is None else 'is sound'} up to step {audited.last_step:,}",
            where=Place(option="--from"),
        )
    else:
        after = wish.from_step
    return after + 1, min(after + wish.steps, audited.last_step)


def routes_of(audited: Audited, windows: Sequence[tuple[int, int]]) -> list[Route]:
    """Windows that start from the same checkpoint are executed in one go."""
    routes: dict[int, Route] = {}
    for first, last in windows:
        start = audited.start_at_or_before(first - 1)
        known = routes.get(start.step)
        routes[start.step] = Route(start, last if known is None else max(last, known.until_step))
    return list(routes.values())


def start_finding(route: Route) -> Finding | None:
    """A checkpoint that is not the state that the ledger recorded is a finding before anything is executed."""
    start = route.start
    if not start.unequal:
        return None
    assert start.path is not None
    quantities = tuple(name for name in ("optimizer", "weights") if name in start.unequal)
    return Finding(
        start.step,
        quantities[0] if quantities else None,
        f"checkpoint {start.path.name} is not the state that the ledger recorded: {', '.join(start.unequal)}",
        quantities,
    )


def route_finding(audited: Audited, done: RouteDone) -> Finding | None:
    """Where the executed steps, or the checkpoints on their way, part from the run."""
    fingerprints = fingerprints_of([done])
    for state in done.saved_states:
        if state.differing:
            weights = tuple(
                name for name in state.differing if not name.endswith((".exp_avg", ".exp_avg_sq"))
            )
            return Finding(
                state.step,
                "weights" if weights else "optimizer",
                f"checkpoint {state.name} is not the state that the steps before it lead to, although the "
                f"ledger is: {meaning(fingerprints)}",
                ("optimizer", "weights") if len(weights) != len(state.differing) else ("weights",),
                state.differing,
                state.step,
            )
    difference = done.difference
    if difference is None:
        return None
    again = Operand("B", done.done.run.path, "run", done.done.ledger, None, {})
    named = name_tensors(audited.operand, again, difference, difference.step)
    return Finding(
        step=difference.step,
        quantity=difference.quantity,
        diagnosis=f"{explain(difference)}; {meaning(fingerprints)}",
        quantities=difference.quantities,
        tensors=named.names,
        tensors_step=named.step,
        tensors_quantity=named.quantity,
        elements=named.changes,
    )


def meaning(fingerprints: Fingerprints) -> str:
    """What the fingerprints say about a difference from what is executed here."""
    if fingerprints.equal:
        return (
            "the fingerprint here is that of the run, so a record or a checkpoint was edited, hardware erred, or a "
            "kernel is not deterministic"
        )
    shown = [str(change) for change in fingerprints.changes[:3]]
    more = len(fingerprints.changes) - len(shown)
    listed = ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])
    return (
        f"{' and '.join(fingerprints.parts)} here {'is' if len(fingerprints.parts) == 1 else 'are'} not as in the run "
        f"({listed}): that may be all, so this proves nothing against the run"
    )


def fingerprints_of(done: Sequence[RouteDone]) -> Fingerprints:
    """The fingerprints of the executed steps: A as recorded, B as here."""
    replay_environments = {
        id(replay_environment): replay_environment
        for route in done
        for replay_environment in route.replay_environments
    }.values()
    recorded = tuple(
        Era(i, g.recorded.digest, g.recorded.parts, g.recorded.preimages)
        for i, g in enumerate(replay_environments)
    )
    here = tuple(
        Era(i, g.here.digest, g.here.parts, g.here.preimages) for i, g in enumerate(replay_environments)
    )
    return compare_eras(recorded, here)


def conclude(audited: Audited, draw: Draw | None, done: list[RouteDone], finding: Finding | None) -> Replay:
    """The verdict over all that was executed."""
    starts = [(route.route.start.step, route.n_equal) for route in done]
    n_equal = len({step for start, count in starts for step in range(start + 1, start + count + 1)})
    last_step = max((route.route.start.step + route.n_equal for route in done), default=0)
    damage = list(audited.damage)
    if audited.broken_step is not None:
        damage.append(f"record {audited.broken_step} of the ledger does not hold: it was damaged or edited")
    if finding is None and damage:
        finding = Finding(audited.broken_step, None, damage[-1])
    met = [state for route in done for state in route.saved_states if not state.differing]
    verdict = Verdict(
        a=str(audited.run.path),
        b="replay",
        finding=finding,
        steps_compared=n_equal,
        quantities_compared=quantities_of(audited, done, bool(met)),
        complete=n_equal == audited.ledger.last_step,
        last_step=last_step,
        ends=(audited.ledger.last_step, last_step),
        fingerprints=fingerprints_of(done),
        chain=audited.ledger.chain_at(last_step).hex() if finding is None else None,
        checkpoints=tuple(state.step for state in met),
        tensors_compared=sum(state.n_tensors for state in met),
        distances=distances_of(audited, done),
        damage=tuple(damage),
        notes=tuple(notes_of(audited)),
    )
    D = done[-1].replay_environments[-1].resolved.batch.D if done else 0
    return Replay(verdict, tuple(done), draw, D)


def quantities_of(audited: Audited, done: Sequence[RouteDone], saved: bool) -> tuple[str, ...]:
    """What the executed steps were compared in: they record everything, so it is what the run's ledger holds.

    saved: whether checkpoints on the way were compared too.
    """
    steps = [range(route.route.start.step + 1, route.route.start.step + route.n_equal + 1) for route in done]
    found = [name for some in steps for name in common_extent(audited.ledger, None, some).quantities]
    return tuple(dict.fromkeys([*found, *(("optimizer", "weights") if saved else ())]))


def distances_of(audited: Audited, done: Sequence[RouteDone]) -> dict[str, list[Distance]]:
    """How far apart loss and norm are at the first difference; the replay ends there."""
    last = done[-1] if done else None
    if last is None or last.difference is None or last.done.ledger is None:
        return {}
    step = last.difference.step
    rows = {
        name: growth(audited.ledger, last.done.ledger, name, step, step) for name in ("loss", "grad_norm")
    }
    return {name: row for name, row in rows.items() if any(distance.ulps for distance in row)}


def notes_of(audited: Audited) -> list[str]:
    """What the reader must know."""
    notes = []
    if audited.ledger.torn_step is not None:
        notes.append(
            f"the ledger ends within the record of step {audited.ledger.torn_step}, which is left out"
        )
    if audited.operand.running:
        notes.append("the run is still going on, or was killed: what it had recorded was audited")
    return notes
