"""What a rank holds from the first step to the last: weights, gradients, moments, buffers."""

from llmrun.lanes import maximal_nodes
from llmrun.plan.memory_parts import FP32_BYTES, MemoryPart, Setting

MOMENTS_BYTES = 8
CHECKPOINT_BYTES = 12
CPU_LIBRARIES_BYTES = {"fp32": 14_000_000, "bf16": 21_500_000}
"""What a CPU rank's libraries touch beside tensors: MKL's and oneDNN's packing buffers and compiled kernels, gloo,
interpreter objects, digest constants.  Measured over many configs (docs/planning-accuracy.md); bf16 compiles more."""
CUDA_DIGEST_BYTES = 8 * 65_536 * (64 + 1)
"""The constants of ledger/digest.py and the buffer of products."""


def state_parts(setting: Setting, N: int) -> list[MemoryPart]:
    """Parts that are there at every moment of a step.  N: N_params_total."""
    D = setting.D
    parts = [
        *(_sharded(setting, N) if setting.is_sharded else _replicated(setting, N)),
        MemoryPart(
            "optimizer", MOMENTS_BYTES * -(-N // D), f"8·N_params_total/D = 8·{N:,}/{D}", "two fp32 moments"
        ),
    ]
    if setting.device == "cpu":
        parts.append(checkpoint_buffer(setting, N))
        means = "what the libraries of a process touch beside tensors, measured"
        parts.append(MemoryPart("libraries", CPU_LIBRARIES_BYTES[setting.precision], "", means))
    else:
        parts.append(MemoryPart("digests", CUDA_DIGEST_BYTES, "8·65,536·(64 + 1)", "constants and products"))
    return parts


def checkpoint_buffer(setting: Setting, N: int) -> MemoryPart:
    """The host's copy of a rank's state that waits while it is written."""
    formula = f"12·N_params_total/D = 12·{N:,}/{setting.D}"
    return MemoryPart("checkpoint buffer", -(-CHECKPOINT_BYTES * N // setting.D), formula, "in host memory")


def _replicated(setting: Setting, N: int) -> list[MemoryPart]:
    """Weights, gradients and the exchange where every rank holds all weights."""
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
    """Weights and gradients where FSDP2 shards all of them; what it gathers and sends comes and goes."""
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
            "flat, and the tree's nodes between slots of lanes",
        ),
    ]


def _held_nodes(setting: Setting) -> int:
    """Most nodes of the tree that a shard holds between two slots of D lanes each."""
    starts = range(setting.D, setting.V, setting.D)
    return max((len(maximal_nodes(setting.V, range(lanes))) for lanes in starts), default=0)
