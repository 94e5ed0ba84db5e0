"""What a first difference means, in words, as far as the two ledgers alone can tell."""

from llmrun.ledger.compare import Difference

INITIALISATION = "initialisation differs: the weights differ before the first step"


def explain(difference: Difference) -> str:
    """One statement: which inputs of the differing quantity were equal, and what is then left as a cause."""
    if difference.step == 0:
        return INITIALISATION
    step = difference.step
    if difference.quantity == "data":
        if difference.fields[0] == "tokens":
            return f"the number of tokens seen differs at step {step}, although the step's tokens are equal"
        return f"the tokens of step {step} differ: another order of samples, or other data"
    if difference.quantity == "loss":
        return _explain_loss(difference)
    if difference.quantity == "gradients":
        return (
            f"same data and loss at step {step}, other gradients: a nondeterministic kernel, another order of "
            f"sums, or a state changed between steps {step - 1} and {step} by less than the loss shows"
        )
    if difference.quantity == "grad_norm":
        return f"same gradients at step {step}, another norm: it was computed in another way"
    if difference.quantity == "optimizer":
        return _explain_optimizer(difference)
    return (
        f"same gradients and learning rate at step {step}, other weights after the update: the optimizer's "
        "state or its settings (betas, eps, weight_decay, grad_clip) differ"
    )


def _explain_loss(difference: Difference) -> str:
    step = difference.step
    if difference.weights_before_equal:
        return (
            f"same data, and the weights after step {step - 1} were equal: the state changed between steps "
            f"{step - 1} and {step}, or dropout drew other numbers, or the forward pass is not deterministic"
        )
    return f"same data at step {step}, another loss; the weights before it were not recorded"


def _explain_optimizer(difference: Difference) -> str:
    if difference.fields[0] == "learning_rate":
        a, b = difference.a.learning_rate, difference.b.learning_rate
        return f"same gradients at step {difference.step}, another learning rate: {a!r} in A, {b!r} in B"
    return (
        f"same gradients and learning rate at step {difference.step}, another optimizer state: it was changed "
        "or lost within the last steps, or the optimizer's settings differ"
    )
