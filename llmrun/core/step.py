"""One optimizer step: the order of all computations that decide a bit (docs/determinism.md)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrun.core.combined_digest import optimizer_due
from llmrun.core.generators import seed_boundary, seed_micro_batch
from llmrun.core.loader import Loader, MicroBatch, micro_batches_of_lane
from llmrun.core.reduce.collectives import bits_of, float_of, gather_integers, sum_columns
from llmrun.core.reduce.norm import (
    clip_factor,
    exponent_of,
    from_limbs,
    largest_magnitude,
    norm_of,
    square_sum,
    to_limbs,
)
from llmrun.core.reduce.tree import tree_sum
from llmrun.core.schedule import learning_rate
from llmrun.core.state import WEIGHTS, TrainingState, whole_digests
from llmrun.core.tensor_digest import Digester, words_of
from llmrun.errors import RunFailedError


@dataclass(frozen=True)
class StepResult:
    """The results of a step, the same on every rank.

    loss:             mean per target token, natural log.  grad_norm: before clipping.
    tokens:           tokens of this step.
    gradient_digests: of the averaged, unclipped gradients, in flat order.
    state_digests:    of the tensors after the update, in flat order, by the keys of `TrainingState.shards`: the weights
                      after every step, the moments if `optimizer_due`.
    flags:            what `train_step` got from `flags`, by rank.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens_digest: int
    gradient_digests: list[int]
    state_digests: dict[str, list[int]]
    tokens: int
    flags: list[list[int]]


@dataclass(frozen=True)
class _LocalSums:
    """Sums over the lanes of one rank."""

    losses: dict[int, Tensor]
    n_targets: int
    tokens_digest: int


def train_step(
    state: TrainingState, loader: Loader, token_digester: Digester, flags: Callable[[], list[int]]
) -> StepResult:
    """Advance the state by one step.

    flags: called at the end of the step for small integers of this rank that are shared with every rank.
    Raises RunFailedError for a non-finite loss or gradient, on every rank alike, before the update.
    """
    s, spec = state.step, state.spec
    seed_boundary(spec.seed, s)
    local = _backward(state, loader, token_digester)
    gradient = state.strategy.finish()
    losses, n_targets, magnitude, tokens_digest = _gather_losses(state, local, largest_magnitude(gradient))
    _refuse_non_finite(state, loader, losses, magnitude)

    factor = torch.tensor(1.0 / n_targets, dtype=torch.float32, device=state.device)
    gradient.mul_(factor)
    exponent = exponent_of(float((torch.tensor(magnitude, dtype=torch.float32) * factor.cpu()).item()))
    norm, gradient_digests = _norm_and_digests(state, gradient, exponent)
    rate = learning_rate(s + 1, spec.batch, spec.schedule, spec.optimizer.lr)
    clip = clip_factor(norm, spec.optimizer.grad_clip)
    if clip < 1.0:
        gradient.mul_(torch.tensor(clip, dtype=torch.float32, device=state.device))
    state.optimizer.update(gradient, lambda peak: learning_rate(s + 1, spec.batch, spec.schedule, peak))
    state.strategy.publish()
    state.step = s + 1
    state_digests, all_flags = _digest_state(state, flags())
    return StepResult(
        step=s + 1,
        loss=tree_sum(losses) / n_targets,
        grad_norm=norm,
        learning_rate=rate,
        tokens_digest=tokens_digest,
        gradient_digests=gradient_digests,
        state_digests=state_digests,
        tokens=state.spec.batch.gb_tok,
        flags=all_flags,
    )


def micro_batch_loss(state: TrainingState, micro_batch: MicroBatch) -> tuple[Tensor, int]:
    """Forward pass of one micro-batch under its own random stream: (sum of the token losses, number of targets)."""
    seed_micro_batch(state.spec.seed, micro_batch.step, micro_batch.number)
    tokens = micro_batch.tokens.to(device=state.device, dtype=torch.int64)
    with torch.autocast(state.device.type, dtype=torch.bfloat16, enabled=state.is_bf16):
        return state.strategy.model(tokens)


def _backward(state: TrainingState, loader: Loader, token_digester: Digester) -> _LocalSums:
    """Forward and backward of this rank's micro-batches, lane by lane."""
    batch = state.spec.batch
    words_per_micro_batch = batch.sequences * (batch.L_ctx + 1)
    losses: dict[int, Tensor] = {}
    words = []
    n_targets = 0
    lanes = state.strategy.lanes
    for lane in lanes:
        state.strategy.begin_lane(lane)
        numbers = micro_batches_of_lane(batch, lane)
        for number in numbers:
            micro_batch = loader.next(state.step, number)
            ends_lane = number == numbers[-1]
            state.strategy.before_pass(ends_lane=ends_lane, ends_step=ends_lane and lane == lanes[-1])
            loss, n = micro_batch_loss(state, micro_batch)
            if lane is None:
                loss = loss * 0.0  # padding micro-batch: contributes zero
            loss.backward()  # type: ignore[no-untyped-call]
            if lane is not None:
                words.append(words_of(micro_batch.tokens, number * words_per_micro_batch))
                losses[number] = loss.detach()
                n_targets += n
        state.strategy.end_lane(lane)
    return _LocalSums(losses, n_targets, sum(token_digester.digests(words)))


def _gather_losses(
    state: TrainingState, local: _LocalSums, magnitude: float
) -> tuple[list[float], int, float, int]:
    """(losses by micro-batch, targets of the step, largest |gradient| of all shards, tokens digest)."""
    own = [0] * state.spec.batch.M
    values = torch.stack(list(local.losses.values())).tolist() if local.losses else []
    for number, loss in zip(local.losses, values, strict=True):
        own[number] = bits_of(loss)
    digest = local.tokens_digest % 2**64
    rows = gather_integers([bits_of(magnitude), local.n_targets, digest, *own], state.D, state.device)
    magnitudes = [float_of(row[0]) for row in rows]
    largest = math.nan if any(math.isnan(m) for m in magnitudes) else max(magnitudes)
    _, n_targets, tokens_digest, *losses = sum_columns(rows)
    return [float_of(bits) for bits in losses], n_targets, largest, tokens_digest


def _norm_and_digests(state: TrainingState, gradient: Tensor, exponent: int) -> tuple[float, list[int]]:
    """The exact global norm of the averaged gradient, and the gradient's digests."""
    limbs = to_limbs(square_sum(gradient, exponent))
    digests, rows = whole_digests(state, {WEIGHTS: state.as_shard(gradient)}, limbs)
    total = from_limbs(sum(high for high, _ in rows), sum(low for _, low in rows))
    return norm_of(total, exponent), digests[WEIGHTS]


def _digest_state(state: TrainingState, flags: list[int]) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Digests of the weights, and of the moments if they are due; every rank's flags."""
    shards = state.shards if optimizer_due(state.step) else {WEIGHTS: state.as_shard(state.strategy.weights)}
    return whole_digests(state, shards, flags)


def _refuse_non_finite(state: TrainingState, loader: Loader, losses: list[float], magnitude: float) -> None:
    """Raise RunFailedError for a non-finite loss or gradient, naming step and micro-batch."""
    broken = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    if broken:
        quantity, value, place = "loss", losses[broken[0]], _place(broken[0], len(losses))
    elif not math.isfinite(magnitude):
        quantity, value, place = "gradient", magnitude, _place_of_non_finite_gradient(state, loader)
    else:
        return
    raise RunFailedError(
        f"the {quantity} of step {state.step + 1} is {value}, {place}",
        caused_by=[
            "training stopped before the update: weights and optimizer state are those of the step before"
        ],
        hints=["resume with a lower learning rate: `llmrun resume RUN --set optimizer.lr=… --allow config`"],
    )


def _place(number: int, M: int) -> str:
    return f"first in micro-batch {number} of 0 … {M - 1}"


def _place_of_non_finite_gradient(state: TrainingState, loader: Loader) -> str:
    """The first micro-batch whose own gradient is not finite, in words; runs each micro-batch again."""
    parameters, M = state.strategy.graph_parameters(), state.spec.batch.M
    if not parameters:
        return "in a micro-batch that only `strategy: replicate` can name"
    for number in range(M):
        tokens = loader.batches.tokens(state.step, number)
        loss, _ = micro_batch_loss(state, MicroBatch(state.step, number, tokens))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            return _place(number, M)
    return "though each micro-batch's own gradient is finite"
