"""The learning rate as a pure function of the step, so that it cannot jump on resume (no torch).

The formula and a table of its corner cases are in docs/learning-rate.md.
"""

import math
from typing import NamedTuple

from llmrun.core.batch import Batch
from llmrun.core.training_spec import ScheduleSpec


class Rates(NamedTuple):
    """Learning rates of a whole run: of its first step, the highest that a step uses, and of its last step."""

    first: float
    peak: float
    last: float


def learning_rate(step: int, batch: Batch, schedule: ScheduleSpec, lr: float) -> float:
    """The learning rate of the update that finishes `step` (1 … steps).

    Counted in whole steps: S = batch.steps, W = ceil(warmup_tokens / GB_tok), at most S.
    Steps 1 … W rise linearly, and step W has `lr` exactly.  Then cosine (Loshchilov and Hutter 2017, arXiv
    1608.03983, eq. 5) or linear down to step S, or constant with a linear decay over the last decay_tokens.
    Step S has final_lr_fraction·lr exactly, unless no step is left to decay in: then it has `lr`.
    """
    warmup_steps = _warmup_steps(batch)
    tokens = step * batch.gb_tok
    if step < warmup_steps:
        # in tokens, not in steps: the quotient keeps the bits of earlier versions
        return lr * tokens / (warmup_steps * batch.gb_tok)
    start = _decay_start(batch, schedule)
    if tokens <= start or start == batch.tokens_seen:
        return lr
    final = lr * schedule.final_lr_fraction
    if step >= batch.steps:
        return final
    progress = (tokens - start) / (batch.tokens_seen - start)
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.name == "cosine" else 1.0 - progress
    return min(lr, final + (lr - final) * shape)  # the sum may round to just above the peak


def rates_of(batch: Batch, schedule: ScheduleSpec, lr: float) -> Rates:
    """The rates that screens show.  Without warm-up the first step decays already, and its rate is the peak."""
    first, peak, last = (
        learning_rate(step, batch, schedule, lr) for step in (1, max(1, _warmup_steps(batch)), batch.steps)
    )
    return Rates(first, peak, last)


def _warmup_steps(batch: Batch) -> int:
    """Steps of warm-up, at most all steps."""
    return min(batch.warmup_steps, batch.steps)


def _decay_start(batch: Batch, schedule: ScheduleSpec) -> int:
    """Tokens after which the rate decays until the run's last token; all tokens if it never does."""
    start = _warmup_steps(batch) * batch.gb_tok
    if schedule.name != "constant":
        return start
    decay = batch.T_tokens // 10 if schedule.decay_tokens is None else schedule.decay_tokens
    return max(start, batch.tokens_seen - decay)
