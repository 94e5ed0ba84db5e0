"""Device memory of one rank, part by part: pure functions of integers.

Activations are counted as the tensors that this model's operations keep for the backward pass, after
Korthikanti et al. 2022 (arXiv 2205.05198, section 4), adapted: attention never stores its L×L scores (a fused
kernel recomputes them), the residual stream is fp32, and autocast casts the input of each projection anew.
What allocators round up and the few buffers that live inside one operation are not counted.
"""

from dataclasses import dataclass
from math import prod

from llmrun.config.shape import ModelShape
from llmrun.lanes import UnevenCost, tree_height
from llmrun.plan.parameters import block_shapes, count_parameters, head_shapes

FP32_BYTES = 4
MOMENTS_BYTES = 8
CHECKPOINT_BYTES = 12


@dataclass(frozen=True)
class MemoryPart:
    """One part of a rank's memory: its name, its bytes, its formula with the numbers put in."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True)
class Memory:
    """Memory of one rank, in bytes.

    parts:             on the device.
    checkpoint_buffer: in host memory, where a snapshot waits while it is written.
    """

    parts: tuple[MemoryPart, ...]
    checkpoint_buffer: MemoryPart

    @property
    def device_bytes(self) -> int:
        """All parts on the device."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Setting:
    """What memory depends on beside the model's shape.

    lanes:      what the sharing of V lanes among D ranks costs.
    recomputes: blocks are recomputed in the backward pass (activation_checkpointing: block).
    device:     cpu or cuda.
    V:          lanes.
    strategy:   replicate or shard; with D = 1 there is nothing to shard.
    """

    D: int
    mu_tok: int
    lanes: UnevenCost
    precision: str
    recomputes: bool
    device: str
    V: int
    strategy: str = "replicate"

    @property
    def half_bytes(self) -> int:
        """Bytes of an element inside autocast: 2 for bf16, 4 for fp32."""
        return 2 if self.precision == "bf16" else FP32_BYTES


def memory_of(shape: ModelShape, setting: Setting) -> Memory:
    """Every part of one rank's memory."""
    N = count_parameters(shape).N_params_total
    D = setting.D
    sharded = setting.strategy == "shard" and D > 1
    parts = [
        *(_sharded(shape, setting, N) if sharded else _replicated(setting, N)),
        *_low_precision_weights(shape, setting),
        MemoryPart(
            "optimizer", MOMENTS_BYTES * -(-N // D), f"8·N_params_total/D = 8·{N:,}/{D} (two fp32 moments)"
        ),
        *_activations(shape, setting),
        _logits(shape, setting),
    ]
    shard = -(-CHECKPOINT_BYTES * N // D)
    return Memory(
        tuple(parts), MemoryPart("checkpoint buffer", shard, f"12·N_params_total/D = 12·{N:,}/{D} (host)")
    )


def _replicated(setting: Setting, N: int) -> list[MemoryPart]:
    """Weights, gradients and the exchange where every rank holds all weights."""
    return [
        MemoryPart("weights", FP32_BYTES * N, f"4·N_params_total = 4·{N:,} (fp32)"),
        MemoryPart(
            "gradients",
            FP32_BYTES * N * setting.lanes.buffers,
            f"4·N_params_total·{setting.lanes.buffers} (flat fp32 buffers of lanes)",
        ),
        *_exchange(N, setting),
    ]


def _sharded(shape: ModelShape, setting: Setting, N: int) -> list[MemoryPart]:
    """Weights, gradients and the exchange where FSDP2 shards all of them."""
    own = -(-N // setting.D)
    block = sum(prod(size) for size in block_shapes(shape).values())
    root = N - shape.n_layers * block
    largest, sums = max(block, root), tree_height(setting.V) + 1
    return [
        MemoryPart(
            "weights",
            2 * FP32_BYTES * own,
            f"2·4·N_params_total/D = 8·{N:,}/{setting.D} (rows, and flat for the optimizer)",
        ),
        MemoryPart(
            "gathered weights",
            FP32_BYTES * (root + 2 * block),
            f"4·({root:,} + 2·{block:,}) (tables, and two blocks)",
        ),
        MemoryPart(
            "gradients",
            (2 + sums) * FP32_BYTES * own,
            f"(2 + {sums})·4·N_params_total/D (reduced, flat, and the tree's nodes)",
        ),
        MemoryPart(
            "exchange", 3 * FP32_BYTES * largest, f"3·4·{largest:,} (one group's gradients, sent, received)"
        ),
    ]


def _low_precision_weights(shape: ModelShape, setting: Setting) -> list[MemoryPart]:
    """The bf16 copies of all matrices that autocast makes and the backward pass keeps."""
    if setting.precision == "fp32":
        return []
    matrices = shape.n_layers * sum(prod(size) for size in block_shapes(shape).values() if len(size) == 2)
    head = sum(prod(size) for size in head_shapes(shape).values()) or shape.vocab_size * shape.d_model
    elements = matrices + head
    return [
        MemoryPart("bf16 weights", 2 * elements, f"2·{elements:,} (copies of all matrices under autocast)")
    ]


def _exchange(N: int, setting: Setting) -> list[MemoryPart]:
    """What a rank receives of everybody's partial sums for the shard that it owns."""
    if setting.D == 1:
        return []
    nodes = sum(setting.lanes.nodes_per_rank)
    shard = -(-N // setting.D)
    return [
        MemoryPart(
            "exchange", FP32_BYTES * shard * nodes, f"4·N_params_total/D·{nodes} partial sums received"
        )
    ]


def _activations(shape: ModelShape, setting: Setting) -> list[MemoryPart]:
    """Activations of all blocks; under recomputation their inputs, and one block in full."""
    tokens, layers = setting.mu_tok, shape.n_layers
    per_token = block_bytes_per_token(shape, setting)
    outside = outside_bytes_per_token(shape, setting)
    if setting.recomputes:
        stored = FP32_BYTES * shape.d_model
        total = tokens * (layers * stored + per_token)
        formula = f"μ_tok·(n_layers·4·d_model + one block) = {tokens:,}·({layers}·{stored:,} + {per_token:,})"
    else:
        total = tokens * layers * per_token
        formula = f"μ_tok·n_layers·(bytes a token and block) = {tokens:,}·{layers}·{per_token:,}"
    return [
        MemoryPart("activations", total, formula),
        MemoryPart("outside blocks", tokens * outside, f"μ_tok·{outside:,} (final norm, the head's input)"),
    ]


def block_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Bytes that one block keeps for the backward pass, per token."""
    is_gated = shape.mlp == "swiglu"
    norms = 2 * norm_bytes_per_token(shape, setting)
    inputs = projection_input_bytes(shape, setting, 3) + projection_input_bytes(shape, setting, 1 + is_gated)
    mlp = (4 if is_gated else 2) * setting.half_bytes * shape.d_ff
    masks = 2 * mask_bytes_per_token(shape, setting, setting.half_bytes)
    return norms + inputs + attention_bytes_per_token(shape, setting) + mlp + masks


def attention_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Queries, keys and values of all heads, the output, and one fp32 scalar a head.

    With ALiBi a CPU keeps the L×L probabilities and fp32 copies; a GPU keeps the bias in bf16.
    """
    half, L, H = setting.half_bytes, shape.L_ctx, shape.n_heads
    head_norms = head_norm_bytes_per_token(shape, setting)
    if shape.position != "alibi":
        return head_norms + 4 * half * shape.d_q + FP32_BYTES * H
    if setting.device == "cpu":
        return head_norms + (3 * FP32_BYTES + half) * shape.d_q + FP32_BYTES * H * L
    bias = half * H * L * L // setting.mu_tok if setting.precision == "bf16" else 0
    return head_norms + 4 * half * shape.d_q + FP32_BYTES * H + bias


def norm_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """A norm keeps its fp32 input and one or two fp32 scalars; RMSNorm on a CPU also the normalised input."""
    kept = 2 if setting.device == "cpu" and shape.norm == "rmsnorm" else 1
    scalars = 2 if shape.norm == "layernorm" else 1
    return FP32_BYTES * (kept * shape.d_model + scalars)


def projection_input_bytes(shape: ModelShape, setting: Setting, count: int) -> int:
    """`count` projections that read the same d_model wide norm: one fp32 tensor, or a bf16 cast for each."""
    if setting.precision == "fp32":
        return FP32_BYTES * shape.d_model
    return count * setting.half_bytes * shape.d_model


def head_norm_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Norms of query and key heads keep fp32 inputs as the other norms do; a CPU also copies the output."""
    if not shape.qk_norm:
        return 0
    scalars = FP32_BYTES * (shape.n_heads + shape.n_kv_heads)
    inputs = FP32_BYTES * (shape.d_q + shape.d_kv)
    return scalars + (2 * inputs + setting.half_bytes * shape.d_q if setting.device == "cpu" else inputs)


def mask_bytes_per_token(shape: ModelShape, setting: Setting, element_bytes: int) -> int:
    """A dropout keeps its mask: one byte an element on CUDA, one element of its input's type on a CPU."""
    if shape.dropout == 0:
        return 0
    return shape.d_model * (1 if setting.device == "cuda" else element_bytes)


def outside_bytes_per_token(shape: ModelShape, setting: Setting) -> int:
    """Final norm, the head's input, the ids of token and target, and the mask on the embedding."""
    ids = 2 * 8
    return (
        norm_bytes_per_token(shape, setting)
        + projection_input_bytes(shape, setting, 1)
        + mask_bytes_per_token(shape, setting, FP32_BYTES)
        + ids
    )


def _logits(shape: ModelShape, setting: Setting) -> MemoryPart:
    """Log-probabilities and, when the backward pass begins, two gradients of their size, all fp32."""
    bytes_ = 3 * FP32_BYTES * setting.mu_tok * shape.vocab_size
    formula = f"3·4·μ_tok·vocab_size = 12·{setting.mu_tok:,}·{shape.vocab_size:,} (log-probabilities, two gradients)"
    return MemoryPart("logits", bytes_, formula)
