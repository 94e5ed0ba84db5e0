"""What the replay of a run found, and its JSON."""

from dataclasses import dataclass
from typing import Any

from llmrun.verify.replay.execute import RouteDone, SavedState
from llmrun.verify.replay.plan import FRACTIONS, Draw, escape_of
from llmrun.verify.report import Verdict


@dataclass(frozen=True)
class Replay:
    """A replay.

    verdict: whether all records were equal, and where they part: `a` is the run.
    routes:  what was executed, in order.  draw: the windows, where they were drawn.
    D:       ranks that executed.
    """

    verdict: Verdict
    routes: tuple[RouteDone, ...]
    draw: Draw | None
    D: int

    @property
    def saved_states(self) -> tuple[SavedState, ...]:
        """The checkpoints that were met on the way."""
        return tuple(state for route in self.routes for state in route.saved_states)

    def as_json(self) -> dict[str, Any]:
        """The keys of `llmrun verify A B`, and what only a replay has under `replay`."""
        return {
            **self.verdict.as_json(),
            "replay": {
                "D": self.D,
                "routes": [route_json(done) for done in self.routes],
                "windows": None if self.draw is None else draw_json(self.draw),
            },
        }


def route_json(done: RouteDone) -> dict[str, Any]:
    """One route."""
    return {
        "from_step": done.route.start.step,
        "checkpoint": None if done.route.start.path is None else done.route.start.path.name,
        "until_step": done.route.until_step,
        "equal_steps": done.n_equal,
        "step_seconds": done.step_seconds,
        "training_step_seconds": done.training_step_seconds,
        "wall_seconds": done.wall_seconds,
        "checkpoints": [
            {"checkpoint": state.name, "tensors": state.n_tensors, "differing": list(state.differing)}
            for state in done.saved_states
        ],
    }


def draw_json(draw: Draw) -> dict[str, Any]:
    """The windows, and what escapes them."""
    return {
        "count": len(draw.windows),
        "length": draw.length,
        "seed": draw.seed,
        "of": draw.n_blocks,
        "drawn": [{"first_step": first, "last_step": last} for first, last in draw.windows],
        "escape": [
            {
                "fraction": fraction,
                "steps": escape.n_falsified,
                "at_most": escape.at_most,
                "if_spread": escape.if_spread,
            }
            for fraction in FRACTIONS
            for escape in [escape_of(draw, fraction)]
        ],
    }
