"""Memory of one rank by part at the moment of a step when it is largest: pure functions of integers."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

from llmrun.core.model.parameters import block_shapes, count_parameters, head_shapes
from llmrun.core.model.shape import ModelShape
from llmrun.core.reduce.tree import maximal_nodes
from llmrun.plan.activations import block_bytes_per_token, outside_bytes_per_token
from llmrun.plan.memory_parts import FP32_BYTES, Memory, MemoryPart, Setting
from llmrun.plan.muon import largest_moments, parameters_of_muon, update_bytes

CPU_LIBRARIES_BYTES = {"fp32": 14_000_000, "bf16": 21_500_000}
"""Memory of a CPU rank's libraries: packing buffers and compiled kernels of MKL and oneDNN, gloo, interpreter
objects, digest constants.  Measured over many configs (docs/planning-accuracy.md); bf16 compiles more."""
CUDA_DIGEST_BYTES = 8 * 65_536 * (64 + 1)
"""The constants of core/digest.py and the buffer of products."""


def state_parts(setting: Setting, N: int, N_muon: int) -> list[MemoryPart]:
    """The parts present at every moment of a step.  N: N_params_total.  N_muon: of them those that Muon updates."""
    parts = [
        *(_sharded(setting, N) if setting.is_sharded else _replicated(setting, N)),
        _moments(setting, N, N_muon),
    ]
    if setting.device == "cpu":
        parts.append(checkpoint_buffer(setting, N, N_muon))
        means = "memory of the libraries, measured"
        parts.append(MemoryPart("libraries", CPU_LIBRARIES_BYTES[setting.precision], "", means))
    else:
        parts.append(MemoryPart("digests", CUDA_DIGEST_BYTES, "8·65,536·(64 + 1)", "constants and products"))
    return parts


def _moments(setting: Setting, N: int, N_muon: int) -> MemoryPart:
    """The optimizer's state, on the rank that has the most."""
    D = setting.D
    bytes_ = largest_moments(N, N_muon, D, by_rows=setting.is_sharded)
    if not N_muon:
        return MemoryPart("optimizer", bytes_, f"8·N_params_total/D = 8·{N:,}/{D}", "two fp32 moments")
    if setting.is_sharded:
        formula = f"8·{N:,}/{D} - 4·{N_muon:,}/{D}"
    else:
        own = -(-N // D)
        by_adamw = min(N - N_muon, own)
        formula = f"8·{by_adamw:,} + 4·{own - by_adamw:,}"
    return MemoryPart(
        "optimizer", bytes_, formula, "two fp32 moments for AdamW, one for Muon; the largest rank"
    )


def checkpoint_buffer(setting: Setting, N: int, N_muon: int) -> MemoryPart:
    """The host's copy of a rank's state while it is written."""
    moments = _moments(setting, N, N_muon)
    if N_muon:
        bytes_, formula = (
            FP32_BYTES * -(-N // setting.D) + moments.bytes,
            f"4·{N:,}/{setting.D} + {moments.bytes:,}",
        )
    else:
        bytes_, formula = -(-12 * N // setting.D), f"12·N_params_total/D = 12·{N:,}/{setting.D}"
    return MemoryPart("checkpoint buffer", bytes_, formula, "in host memory")


def _replicated(setting: Setting, N: int) -> list[MemoryPart]:
    """Weights, gradients and exchange if every rank holds all weights."""
    buffers = setting.lanes.buffers
    parts = [
        MemoryPart("weights", FP32_BYTES * N, f"4·N_params_total = 4·{N:,}", "fp32"),
        MemoryPart(
            "gradients",
            FP32_BYTES * N * buffers,
            f"4·N_params_total·{buffers} = 4·{N:,}·{buffers}",
            "flat fp32 buffers of lanes",
        ),
    ]
    if setting.D > 1:
        nodes = sum(setting.lanes.nodes_per_rank)
        received = FP32_BYTES * -(-N // setting.D) * (nodes + 1)
        formula = f"4·N_params_total/D·({nodes} + 1)"
        parts.append(MemoryPart("exchange", received, formula, "partial sums received, and their sum"))
    return parts


def _sharded(setting: Setting, N: int) -> list[MemoryPart]:
    """Weights and gradients sharded by FSDP2, without what it gathers and sends temporarily."""
    own = -(-N // setting.D)
    held = _held_nodes(setting)
    return [
        MemoryPart(
            "weights",
            2 * FP32_BYTES * own,
            f"2·4·N_params_total/D = 8·{N:,}/{setting.D}",
            "rows, and flat for the optimizer",
        ),
        MemoryPart(
            "gradients",
            (1 + held) * FP32_BYTES * own,
            f"(1 + {held})·4·N_params_total/D",
            "flat, and tree nodes held between slots of lanes",
        ),
    ]


def _held_nodes(setting: Setting) -> int:
    """The most tree nodes that a shard holds between two slots of D lanes."""
    starts = range(setting.D, setting.V, setting.D)
    return max((len(maximal_nodes(setting.V, range(lanes))) for lanes in starts), default=0)


NORM_BLOCK_BYTES = 8 * 2**14
NORM_BLOCKS_CPU, NORM_BLOCKS_CUDA = 16, 1024
"""Chunks of core/reduce/norm.py."""


@dataclass(frozen=True)
class StepMoment:
    """One moment of a step, with the parts that exist only then."""

    name: str
    parts: tuple[MemoryPart, ...]

    @property
    def bytes(self) -> int:
        """The sum of these parts."""
        return sum(part.bytes for part in self.parts)


def largest_moment(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """The moment that needs the most memory.  N: N_params_total."""
    moments: list[Callable[[], StepMoment]] = [
        lambda: _loss(shape, setting, N),
        lambda: _head(shape, setting, N),
        lambda: _final_norm(shape, setting, N),
        lambda: _last_block(shape, setting, N),
        lambda: _tables(shape, setting, N),
        lambda: _update(shape, setting, N),
    ]
    if setting.is_sharded:
        moments.append(lambda: _exchange(shape, setting, N))
    return max((moment() for moment in moments), key=lambda moment: moment.bytes)


def _loss(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """Start of the backward pass: log-probabilities and two gradients of their size, all fp32."""
    t, W = setting.mu_tok, shape.vocab_size
    logits = MemoryPart(
        "logits",
        3 * FP32_BYTES * t * W,
        f"3·4·μ_tok·vocab_size = 12·{t:,}·{W:,}",
        "log-probabilities, two gradients",
    )
    parts = (
        *_low_precision(shape, setting),
        _kept(shape, setting),
        _outside(shape, setting),
        logits,
        *_fsdp(shape, setting, N, at="head"),
    )
    return StepMoment("the loss's gradient", parts)


def _head(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """Gradient of the head's weights: under autocast first in bf16, then copied to fp32.

    The bf16 copy of the weights is freed by then.
    """
    t, W, C, half = setting.mu_tok, shape.vocab_size, shape.d_model, setting.half_bytes
    product = half * (t * W + W * C + t * C)
    cast = FP32_BYTES * W * C + (half + FP32_BYTES) * t * C if setting.precision == "bf16" else 0
    formula = f"{half}·(μ_tok·vocab_size + vocab_size·d_model + μ_tok·d_model)"
    if cast > product:
        formula = f"4·vocab_size·d_model + {half + FP32_BYTES}·μ_tok·d_model"
    parts = (
        *_low_precision(shape, setting),
        _kept(shape, setting),
        _outside(shape, setting),
        MemoryPart(
            "temporary", max(product, cast), formula, "gradients of the logits and of the head's weights"
        ),
        *_fsdp(shape, setting, N, at="head"),
    )
    return StepMoment("the output head's gradient", parts)


def _final_norm(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """Backward of the final norm; RMSNorm on a CPU is a chain of operations, otherwise it is one kernel."""
    t, W, C = setting.mu_tok, shape.vocab_size, shape.d_model
    tensors = 4 if setting.device == "cpu" and shape.norm == "rmsnorm" else 2
    tied = FP32_BYTES * W * C if shape.tie_embeddings else 0
    bytes_ = FP32_BYTES * tensors * t * C - setting.half_bytes * t * C + tied
    formula = f"{tensors}·4·μ_tok·d_model - {setting.half_bytes}·μ_tok·d_model + {tied:,}"
    means = "gradients around the final norm, minus the head's input"
    if tied:
        means = "gradients around the final norm, minus the head's input; the tied table's gradient"
    parts = (
        *_low_precision(shape, setting, in_block=True),
        _kept(shape, setting),
        _outside(shape, setting),
        MemoryPart("temporary", bytes_, formula, means),
        *_fsdp(shape, setting, N, at="head"),
    )
    return StepMoment("backward of the final norm", parts)


def _last_block(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """Backward of the last block's MLP; a recomputed block exists in full, its input once."""
    t, C, F, half = setting.mu_tok, shape.d_model, shape.d_ff, setting.half_bytes
    kept = _kept(shape, setting)
    if setting.recomputes:
        block = t * (block_bytes_per_token(shape, setting) - FP32_BYTES * C)
        kept = MemoryPart(
            kept.name,
            kept.bytes + block,
            f"{kept.formula} + {block:,}",
            "inputs of blocks, and the last block in full",
        )
    inner = (
        2 * half * t * F
        if shape.mlp == "swiglu"
        else half * t * (F + C * _copies_of_gradient(shape, setting))
    )
    weight = half * t * F + (half + FP32_BYTES if setting.precision == "bf16" else FP32_BYTES) * C * F
    tied = FP32_BYTES * shape.vocab_size * C if shape.tie_embeddings else 0
    formula = f"4·μ_tok·d_model + {max(inner, weight):,} + {tied:,}"
    means = "gradients inside the MLP; the tied table's gradient" if tied else "gradients inside the MLP"
    temporary = MemoryPart("temporary", FP32_BYTES * t * C + max(inner, weight) + tied, formula, means)
    return StepMoment(
        "backward of the last block",
        (
            *_low_precision(shape, setting, in_block=True),
            kept,
            temporary,
            *_fsdp(shape, setting, N, at="block"),
        ),
    )


def _copies_of_gradient(shape: ModelShape, setting: Setting) -> int:
    """Copies of the block's gradient before the MLP's: a cast to bf16, a dropout."""
    return int(setting.precision == "bf16") + int(shape.dropout > 0)


def _tables(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """End of the backward pass: the gradient of the token table, and of a head that shares it.

    In fp32 the head's gradient is a transposed view, which autograd cannot add into: the sum is a third table.
    """
    t, W, C = setting.mu_tok, shape.vocab_size, shape.d_model
    tables = 1 + shape.tie_embeddings + (shape.tie_embeddings and setting.precision == "fp32")
    formula = f"{tables}·4·vocab_size·d_model + 4·μ_tok·d_model"
    means = "gradients of the token table and of its output"
    return StepMoment(
        "the token table's gradient",
        (
            MemoryPart("temporary", FP32_BYTES * (tables * W * C + t * C), formula, means),
            *_fsdp(shape, setting, N, at="tables"),
        ),
    )


def _update(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """Norm, optimizer, and the gathering of updated shards."""
    own = -(-N // setting.D)
    blocks = NORM_BLOCKS_CPU if setting.device == "cpu" else NORM_BLOCKS_CUDA
    norm = NORM_BLOCK_BYTES * min(blocks, -(-own // 2**14))
    foreach = FP32_BYTES * own if setting.implementation == "foreach" else 0
    gather = 0
    if setting.D > 1 and not setting.is_sharded:
        gather = FP32_BYTES * (own + (N if setting.device == "cpu" else 0))
    means = "chunk of the norm, copy of foreach, or the sent shard; gloo also copies what it receives"
    formula = f"max({norm:,}, {foreach:,}, {gather:,})"
    muon = update_bytes(shape, N, parameters_of_muon(shape, setting.muon_share), setting.D)
    if muon:
        formula = f"max({norm:,}, {foreach:,}, {gather:,}, {muon:,})"
        means = "chunk of the norm, copy of foreach, the sent shard, or Muon's matrices in bf16"
    temporary = MemoryPart("temporary", max(norm, foreach, gather, muon), formula, means)
    return StepMoment("the update", (temporary, *_fsdp(shape, setting, N, at="update")))


def _exchange(shape: ModelShape, setting: Setting, N: int) -> StepMoment:
    """FSDP2 reduces the last block's gradients: they, a copy to send, and what is received; activations are freed."""
    each, block = _kept(shape, setting), _elements_of_block(shape)
    kept = each.bytes * (shape.n_layers - 1) // shape.n_layers
    tied = FP32_BYTES * shape.vocab_size * shape.d_model if shape.tie_embeddings else 0
    parts = (
        *_low_precision(shape, setting, in_block=True),
        MemoryPart(
            each.name, kept, f"{each.formula}·{shape.n_layers - 1}/{shape.n_layers}", "without the last block"
        ),
        MemoryPart(
            "temporary", 3 * FP32_BYTES * block + tied, f"3·4·{block:,} + {tied:,}", "sent and received"
        ),
        *_fsdp(shape, setting, N, at="block"),
    )
    return StepMoment("the exchange of the last block", parts)


def _fsdp(
    shape: ModelShape, setting: Setting, N: int, *, at: Literal["head", "block", "tables", "update"]
) -> list[MemoryPart]:
    """Weights that FSDP2 has gathered at a moment, and gradients that it has reduced."""
    if not setting.is_sharded:
        return []
    own, block = -(-N // setting.D), _elements_of_block(shape)
    root = N - shape.n_layers * block
    gathered = {"head": root, "block": root + 2 * block, "tables": root + block, "update": 0}[at]
    sent = 2 * root if at == "tables" else 0
    is_early = at in ("head", "block") and setting.V <= setting.D
    reduced = 0 if is_early else own
    return [
        MemoryPart("gathered weights", FP32_BYTES * gathered, f"4·{gathered:,}", "tables, and blocks in use"),
        MemoryPart(
            "reduced gradients",
            FP32_BYTES * (reduced + sent),
            f"4·({reduced:,} + {sent:,})",
            "N_params_total/D after the first reduction; tables sent and received",
        ),
    ]


def _elements_of_block(shape: ModelShape) -> int:
    return sum(prod(size) for size in block_shapes(shape).values())


def _kept(shape: ModelShape, setting: Setting) -> MemoryPart:
    """Activations of all blocks; with recomputation only their inputs."""
    t, layers = setting.mu_tok, shape.n_layers
    if setting.recomputes:
        stored = FP32_BYTES * shape.d_model
        formula = f"μ_tok·n_layers·4·d_model = {t:,}·{layers}·{stored:,}"
        return MemoryPart("activations", t * layers * stored, formula, "inputs of blocks")
    each = block_bytes_per_token(shape, setting)
    formula = f"μ_tok·n_layers·{each:,} = {t:,}·{layers}·{each:,}"
    return MemoryPart("activations", t * layers * each, formula, "bytes per token and block")


def _outside(shape: ModelShape, setting: Setting) -> MemoryPart:
    """Activations outside the blocks."""
    each = outside_bytes_per_token(shape, setting)
    means = "final norm, the head's input"
    return MemoryPart("outside blocks", setting.mu_tok * each, f"μ_tok·{each:,}", means)


def _low_precision(shape: ModelShape, setting: Setting, *, in_block: bool = False) -> list[MemoryPart]:
    """The bf16 copies of matrices that autocast makes and keeps for the backward pass.

    in_block: in the backward pass of the last block; with recomputation only that block's copies exist.
    """
    if setting.precision == "fp32":
        return []
    matrices = sum(prod(size) for size in block_shapes(shape).values() if len(size) == 2)
    head = sum(prod(size) for size in head_shapes(shape).values()) or shape.vocab_size * shape.d_model
    blocks = int(in_block) if setting.recomputes else shape.n_layers
    elements = blocks * matrices + (0 if in_block else head)
    means = "copies of matrices under autocast"
    return [MemoryPart("bf16 weights", 2 * elements, f"2·{elements:,}", means)]


__all__ = ["Memory", "MemoryPart", "Setting", "memory_of"]


def state_memory(setting: Setting, N: int, N_muon: int, peak_bytes: int | None) -> Memory:
    """The parts of one rank's memory that do not depend on the model's operations, and what else was measured.

    N:          N_params_total.  N_muon: of them those that Muon updates.
    peak_bytes: measured in steps that saved no checkpoint; None if unknown: then `moment` is None.
    """
    parts, buffer = state_parts(setting, N, N_muon), checkpoint_buffer(setting, N, N_muon)
    if peak_bytes is None:
        return Memory(tuple(parts), buffer, None)
    exact = [part for part in parts if part.name != "libraries"]
    known = sum(part.bytes for part in exact if part.name != buffer.name)
    means = "measured peak without the other parts: activations and libraries"
    rest = MemoryPart("activations", max(0, peak_bytes - known), "", means)
    return Memory((*exact, rest), buffer, "as measured")


def memory_of(shape: ModelShape, setting: Setting) -> Memory:
    """All parts of one rank's memory."""
    N = count_parameters(shape).N_params_total
    moment = largest_moment(shape, setting, N)
    N_muon = parameters_of_muon(shape, setting.muon_share)
    parts = (*state_parts(setting, N, N_muon), *moment.parts)
    return Memory(parts, checkpoint_buffer(setting, N, N_muon), moment.name)
