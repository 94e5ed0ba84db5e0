"""Seeded faults of the table in tests/faults/rows.py: what a rank sees, computes or keeps is changed in one place."""

import torch


def shift_samples(step: int, by: int) -> None:
    """From `step` on every sample is the one that stands `by` places later in the order."""
    from llmrun.core.loader import MicroBatches

    tokens = MicroBatches.tokens

    def shifted(self, s, number):
        found = self._order
        if s >= step - 1:
            self._order = Shifted(found, by)
        try:
            return tokens(self, s, number)
        finally:
            self._order = found

    MicroBatches.tokens = shifted


class Shifted:
    """An order that begins `by` entries later."""

    def __init__(self, order, by) -> None:
        self.order, self.by = order, by

    def entries(self, start, count):
        """See `llmrun.data.order_file.Entries`."""
        return self.order.entries(start + self.by, count)


def other_order(seed: int) -> None:
    """The samples come in the order of another seed."""
    from llmrun.runtime import session as module

    open_order = module.open_order
    module.open_order = lambda run, _, *rest, **named: open_order(run, seed, *rest, **named)


def change_token(step: int, number: int, place: int) -> None:
    """At `step` one token of a micro-batch is its neighbour in the vocabulary."""
    from llmrun.core.loader import MicroBatches

    tokens = MicroBatches.tokens

    def changed(self, s, j):
        found = tokens(self, s, j)
        if (s, j) == (step - 1, number):
            found.view(-1)[place] ^= 1
        return found

    MicroBatches.tokens = changed


def late_learning_rate(step: int) -> None:
    """From `step` on each update uses the learning rate of the step before."""
    from llmrun.core import step as module

    rate = module.learning_rate
    module.learning_rate = lambda s, *rest: rate(s - (s >= step), *rest)


def other_initial_value(tensor: str) -> None:
    """One element of one parameter starts at the float next to its own."""
    from llmrun.core.model import initialise as module

    initialise = module.initialise

    def initialised(name, parameter, *rest):
        initialise(name, parameter, *rest)
        if name == tensor:
            parameter.data.view(-1)[:1].view(torch.int32).add_(1)

    module.initialise = initialised


def before_step(step: int, act) -> None:
    """Calls act(state) when `step` - 1 steps are finished."""
    from llmrun.runtime.hooks import Hooks, attach

    class Act(Hooks):
        def before_step(self, state):
            if state.step == step - 1:
                act(state)

    attach(Act())


def slot_named(state, name: str):
    """Where a parameter lies in the flat buffer (D = 1)."""
    return next(slot for slot in state.strategy.slots if slot.name == name)


def perturb_gradient(step: int, tensor: str, element: int) -> None:
    """At `step` one element of the summed gradient of one parameter is the float next to its own."""

    def act(state):
        finish = state.strategy.finish
        at = slot_named(state, tensor).start + element

        def perturbed():
            del state.strategy.finish
            gradient = finish()
            gradient[at : at + 1].view(torch.int32).add_(1)
            return gradient

        state.strategy.finish = perturbed

    before_step(step, act)


def perturb_backward(step: int, module: str) -> None:
    """At `step` the largest element of the gradient that enters a module's backward pass is the float next to it."""

    def act(state):
        target = state.strategy.model.get_submodule(module)

        def bump(gradient):
            changed = gradient.clone()
            integer = torch.int16 if gradient.element_size() == 2 else torch.int32
            changed.view(-1).view(integer)[gradient.abs().argmax()] += 1
            return changed

        def hook(_module, _inputs, output):
            handle.remove()
            output.register_hook(bump)

        handle = target.register_forward_hook(hook)

    before_step(step, act)


def swap_tensors(step: int, one: str, other: str) -> None:
    """At the end of `step`'s update two parameters of one shape change places."""

    def act(state):
        publish = state.strategy.publish
        a, b = (
            state.strategy.flat[slot.start : slot.start + slot.numel]
            for slot in (slot_named(state, one), slot_named(state, other))
        )

        def swapped():
            del state.strategy.publish
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)
            publish()

        state.strategy.publish = swapped

    before_step(step, act)


def decay_norms(step: int, weight_decay: float) -> None:
    """From `step` on the norm weights decay too."""

    def act(state):
        state.optimizer._adamw._adamw.param_groups[1]["weight_decay"] = weight_decay

    before_step(step, act)


def forget_updates(step: int) -> None:
    """From `step` on the optimizer corrects its bias as if it had made no update before."""
    before_step(step, lambda state: state.optimizer.set_finished_steps(0))


def flip_moment_bit(step: int, tensor: str, bit: int) -> None:
    """Before `step` one bit of a second moment flips."""

    def act(state):
        at = slot_named(state, tensor).start
        state.optimizer.moments["exp_avg_sq"].values[at : at + 1].view(torch.int32).bitwise_xor_(1 << bit)

    before_step(step, act)


def other_generators(step: int) -> None:
    """The generators that are saved after `step` are those of another seed."""
    from llmrun.runtime import state_dict as module

    boundary = module.seed_boundary
    module.seed_boundary = lambda seed, s: boundary(seed + (s == step), s)
