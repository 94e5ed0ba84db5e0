"""The learning rate as a pure function of the step, so that it cannot jump on resume (no torch)."""

import math

from llmrun.config.batch import Batch
from llmrun.config.sections import ScheduleConfig


def learning_rate(step: int, batch: Batch, schedule: ScheduleConfig, lr: float) -> float:
    """The learning rate of the update that finishes `step` (1 … steps).

    Linear warm-up over warmup_tokens, then over the rest of the run: cosine (Loshchilov and Hutter 2017,
    arXiv 1608.03983, eq. 5), linear, or constant with a linear decay over the last decay_tokens.  The end is
    tokens_seen, so that the last update has final_lr_fraction·lr exactly.
    """
    tokens = step * batch.gb_tok
    if tokens < batch.warmup_tokens:
        return lr * tokens / batch.warmup_tokens
    final = lr * schedule.final_lr_fraction
    if step >= batch.steps:
        return final
    start = batch.warmup_tokens
    if schedule.name == "constant":
        decay = batch.T_tokens // 10 if schedule.decay_tokens is None else schedule.decay_tokens
        start = max(start, batch.tokens_seen - decay)
    if tokens <= start:
        return lr
    progress = (tokens - start) / (batch.tokens_seen - start)
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.name == "cosine" else 1.0 - progress
    return final + (lr - final) * shape
