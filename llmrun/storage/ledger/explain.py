"""Explains a first difference in words, from the two ledgers alone."""

from dataclasses import dataclass

from llmrun.storage.ledger.compare import RecordDifference

INITIALISATION = "weights differ before the first step: initialisation"


@dataclass(frozen=True)
class Explanation:
    """A difference in words.

    fact:   what was equal before it in causal order, and what was not.
    guess:  possible causes, unless something else (two configs, two machines) explains the difference; may be "".
    """

    fact: str
    guess: str = ""

    def __str__(self) -> str:
        return f"{self.fact}: {self.guess}" if self.guess else self.fact


def explain(difference: RecordDifference, where: str = "") -> Explanation:
    """The inputs of the differing quantity that were equal, and the possible causes.

    where: the part of the model in which the quantity differs, or "".
    """
    step = difference.step
    if step == 0:
        return Explanation(f"{INITIALISATION}{_in(where)}")
    if difference.quantity == "data":
        if difference.fields[0] == "tokens":
            return Explanation(
                f"the number of tokens seen differs at step {step}, although the step's tokens are equal"
            )
        return Explanation(f"data differ from step {step} on", "another order of samples, or other tokens")
    if difference.quantity == "loss":
        return _explain_loss(difference)
    if difference.quantity == "gradients":
        return Explanation(
            f"same data and {_weights_or_loss(difference)} at step {step}, gradients differ{_in(where)}",
            "a nondeterministic kernel, a different order of sums, or memory corruption",
        )
    if difference.quantity == "grad_norm":
        return Explanation(f"same gradients at step {step}, the norm differs", "it was computed differently")
    if difference.quantity == "optimizer":
        return _explain_optimizer(difference, where)
    return Explanation(
        f"same gradients and learning rate at step {step}, weights differ after the update{_in(where)}",
        "the optimizer's state or its settings (betas, eps, weight_decay, grad_clip) differ",
    )


def _in(where: str) -> str:
    return f" in {where}" if where else ""


def _weights_or_loss(difference: RecordDifference) -> str:
    """What besides the data was equal if the gradients differ."""
    return "weights" if difference.weights_before_equal else "loss"


def _explain_loss(difference: RecordDifference) -> Explanation:
    step = difference.step
    if difference.quantities == ("loss",) and difference.b.gradients_digest is not None:
        return Explanation(
            f"the loss alone differs at step {step}, gradients and weights are equal",
            "the losses of the micro-batches were added differently, or the record was edited",
        )
    if difference.weights_before_equal:
        return Explanation(
            f"same data and weights, the loss differs at step {step}",
            f"dropout drew other numbers, the forward pass is not deterministic, "
            f"or the weights changed between steps {step - 1} and {step}",
        )
    return Explanation(f"same data at step {step}, the loss differs; the weights before it were not recorded")


def _explain_optimizer(difference: RecordDifference, where: str) -> Explanation:
    if difference.fields[0] == "learning_rate":
        a, b = difference.a.learning_rate, difference.b.learning_rate
        return Explanation(
            f"same gradients at step {difference.step}, the learning rate differs ({a!r} in A, {b!r} in B)",
            "the schedule, its length or its position differs",
        )
    return Explanation(
        f"same gradients and learning rate at step {difference.step}, the optimizer's state differs{_in(where)}",
        "it was changed or lost within the last steps, or the optimizer's settings differ",
    )
