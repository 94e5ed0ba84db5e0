"""Watches a user's own model while it trains: state that no checkpoint would hold, parameters that get no gradient."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.facts import ModelFacts
from llmrun.core.state import TrainingState
from llmrun.core.step import StepResult
from llmrun.errors import InputError, Place
from llmrun.runtime.hidden_state import HiddenState, hidden_state
from llmrun.runtime.hooks import Hooks
from llmrun.runtime.model_import import own_files
from llmrun.runtime.progress import Progress
from llmrun.text import cut, listed

STEPS_AT_FIRST = 3
STEPS_BETWEEN = 64
NAMED_MAX = 8


class ModelWatch(Hooks):
    """Compares the model's state outside its parameters with that at the segment's start.

    After each of the first steps, then every `STEPS_BETWEEN` steps and after the last: reading all of it after every
    step would cost time.
    """

    def __init__(self, facts: ModelFacts, progress: Progress, until_step: int) -> None:
        self._facts, self._progress, self._until_step = facts, progress, until_step
        self._at_start: HiddenState | None = None
        self._checked_step = self._first_step = 0

    def on_start(self, state: TrainingState) -> None:
        """Read the state before the first step."""
        self._checked_step = self._first_step = state.step
        self._at_start = self._read(state)

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Raises InputError if the model has changed anything but its parameters."""
        if state.step == 1:
            self._name_unused(state, result)
        is_due = state.step - self._first_step <= STEPS_AT_FIRST or state.step % STEPS_BETWEEN == 0
        if not is_due and state.step != self._until_step:
            return
        assert self._at_start is not None
        changed = self._at_start.changed(self._read(state))
        if changed:
            steps = f"step {state.step}"
            if state.step - self._checked_step > 1:
                steps = f"steps {self._checked_step + 1} to {state.step}"
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise InputError(
                f"the model keeps state beside its parameters: {changed[0]}{more} changed in {steps}",
                where=Place(key="model.factory"),
                caused_by=[] if len(changed) == 1 else cut(changed, NAMED_MAX),
                hints=["compute it in the constructor or anew in every forward pass: a resume would lose it"],
            )
        self._checked_step = state.step

    def _read(self, state: TrainingState) -> HiddenState:
        return hidden_state(module_of(state), own_files(), state.digester)

    def _name_unused(self, state: TrainingState, result: StepResult) -> None:
        """Warn of parameters whose gradient was zero in the first step: they may not be part of the model's graph."""
        unused = [
            slot.name
            for slot, digest in zip(state.strategy.slots, result.gradient_digests, strict=True)
            if digest == 0 and not slot.is_frozen
        ]
        if unused:
            self._progress.warn(
                "parameters whose gradient was zero in step 1 (a parameter that no loss depends on counts as zero): "
                + listed(unused, NAMED_MAX)
            )


def buffer_digests(state: TrainingState) -> dict[str, str]:
    """The digests of a model's persistent buffers by name, with dtype and shape: they are made by its constructor.

    Empty for the built-in model, which has none.
    """
    if not isinstance(state.spec.model, FactorySpec):
        return {}
    module, facts = module_of(state), state.spec.model.facts
    found = {}
    for name, buffer in facts.buffers.items():
        if buffer.persistent:
            values = module.get_buffer(name)
            found[name] = f"{buffer.dtype} {list(buffer.shape)} {state.digester.digest(values):016x}"
    return found


def module_of(state: TrainingState) -> nn.Module:
    """The model itself, without the wrapper of statistical mode."""
    model = state.strategy.model
    found = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(found, nn.Module)
    return found
