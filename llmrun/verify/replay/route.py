"""Executes the steps from one start on and compares each record with what the run recorded."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from llmrun.checkpoint.layout import step_name, step_of, steps_in
from llmrun.launch.ground import Ground
from llmrun.launch.replay import Leg, LegDone, run_leg, step_seconds_of
from llmrun.launch.starter import Starter
from llmrun.launch.watch import Spectator
from llmrun.ledger.compare import Difference, first_difference
from llmrun.verify.replay.audited import Audited, StartState


@dataclass(frozen=True)
class Crew:
    """Who executes, and where.

    scratch: a directory for what the workers write.  D, data: as for `ground_for`.
    """

    starter: Starter
    spectator: Spectator
    scratch: Path
    D: int | None = None
    data: Path | None = None

    def place(self) -> Path:
        """A directory that does not exist yet."""
        return self.scratch / f"leg-{sum(1 for _ in self.scratch.iterdir()) + 1:03d}"


@dataclass(frozen=True)
class Route:
    """Steps to execute again: `start.step` + 1 to `until_step`."""

    start: StartState
    until_step: int


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that the executed state was compared with.  differing: tensors with other bytes."""

    name: str
    step: int
    n_tensors: int
    differing: tuple[str, ...]


@dataclass(frozen=True)
class RouteDone:
    """What came of a route.

    n_equal:       steps whose records were equal.
    difference:    the first difference; `a` is what the run recorded.  done: the last leg, which met it.
    saved_states:  the checkpoints on the way.
    step_seconds:  of a step here.  training_step_seconds: of these steps in the run.  None where not known.
    wall_seconds:  from start to end.
    """

    route: Route
    grounds: tuple[Ground, ...]
    n_equal: int
    difference: Difference | None
    done: LegDone
    saved_states: tuple[SavedState, ...]
    step_seconds: float | None
    training_step_seconds: float | None
    wall_seconds: float


def execute(audited: Audited, route: Route, crew: Crew, saves: bool = False) -> RouteDone:
    """Execute a route: one leg for each stretch of steps under one fingerprint.

    saves: whether the state after the last step is saved, in the last leg's directory.
    Raises the workers' error where they fail without having recorded a difference.
    """
    legs = legs_of(audited, route, crew, saves)
    checkpoint = route.start.path
    done: LegDone | None = None
    difference: Difference | None = None
    saved: list[SavedState] = []
    wall_seconds = 0.0
    for leg in legs:
        done = run_leg(crew.place(), replace(leg, checkpoint=checkpoint), crew.starter, crew.spectator)
        wall_seconds += done.wall_seconds
        difference = compare_leg(leg, done)
        saved += saved_states_of(done)
        if difference is not None or any(state.differing for state in saved):
            break
        checkpoint = saved_checkpoint(done)
    assert done is not None
    reached = route.until_step if difference is None else difference.step - 1
    return RouteDone(
        route=route,
        grounds=tuple(leg.ground for leg in legs),
        n_equal=max(reached - route.start.step, 0),
        difference=difference,
        done=done,
        saved_states=tuple(saved),
        step_seconds=done.step_seconds,
        training_step_seconds=step_seconds_of(audited.run, route.until_step),
        wall_seconds=wall_seconds,
    )


def legs_of(audited: Audited, route: Route, crew: Crew, saves: bool) -> list[Leg]:
    """The legs of a route; all but the first get their checkpoint from the leg before."""
    legs = []
    for stretch in audited.stretches:
        first, last = max(stretch.from_step, route.start.step), min(stretch.to_step, route.until_step)
        if first < last:
            legs.append(
                Leg(
                    ground=audited.ground(last, crew.starter, crew.D, crew.data),
                    ledger=audited.ledger,
                    from_step=first,
                    checkpoint=None,
                    until_step=last,
                    saves=saves or last < route.until_step,
                    compared=audited.checkpoints_within(first, last),
                )
            )
    assert legs, f"no step from {route.start.step} to {route.until_step}"
    return legs


def compare_leg(leg: Leg, done: LegDone) -> Difference | None:
    """The first difference between what a leg recorded and what the run did.

    Raises the workers' error where they came to their end neither by finishing nor by a difference.
    """
    found = None
    if done.ledger is not None and done.ledger.n_records:
        start = leg.from_step + 1 if leg.from_step else 0
        found = first_difference(leg.ledger, done.ledger, range(start, done.ledger.last_step + 1))
    if found is None and (done.ledger is None or done.ledger.last_step < leg.until_step):
        raise done.error
    return found


def saved_states_of(done: LegDone) -> list[SavedState]:
    """What the workers found of the checkpoints on their way; those that went away are left out."""
    path = done.run.path / "saved-states.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        SavedState(name, step_of(name) or 0, entry["tensors"], tuple(entry["differing"]))
        for name, entry in found.items()
        if entry is not None
    ]


def saved_checkpoint(done: LegDone) -> Path | None:
    """The checkpoint that a leg saved at its end; None where it saved none."""
    steps = steps_in(done.run.checkpoints)
    return done.run.checkpoints / step_name(steps[-1]) if steps else None
