"""Hooks of the training loop: what a replay's instruments and tests attach to it."""

from llmrun.core.state import TrainingState
from llmrun.core.step import StepResult


class Hooks:
    """Called by the loop on every rank; override what is needed.

    A hook may use collectives only if it does so on all ranks alike.
    """

    def on_start(self, state: TrainingState) -> None:
        """Before the first step of the segment."""

    def before_step(self, state: TrainingState) -> None:
        """Before each step; `state.step` steps are finished."""

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """After each step, when it is recorded and before it is saved."""

    def on_end(self) -> None:
        """After the last step, and if a step failed."""


_attached: list[Hooks] = []


def attach(hooks: Hooks) -> None:
    """Attach hooks to every loop that this process runs from now on."""
    _attached.append(hooks)


def attached() -> tuple[Hooks, ...]:
    """The hooks attached so far, in order."""
    return tuple(_attached)
