"""What a memory plan is made of, and what it depends on."""

from dataclasses import dataclass

from llmrun.core.lanes import UnevenCost

FP32_BYTES = 4


@dataclass(frozen=True)
class MemoryPart:
    """One part of a rank's memory.

    formula: with the numbers put in, without words; empty where the bytes were measured.
    means:   what that is, as a phrase; like the name it is a text of `language.py`.
    """

    name: str
    bytes: int
    formula: str
    means: str


@dataclass(frozen=True)
class Memory:
    """Memory of one rank, in bytes, at the moment of a step when it is largest.

    parts:             on the device; where that is the CPU, `checkpoint_buffer` is one of them.
    checkpoint_buffer: in host memory, where a snapshot waits while it is written.
    moment:            which moment of the step that is, as a phrase.
    """

    parts: tuple[MemoryPart, ...]
    checkpoint_buffer: MemoryPart
    moment: str

    @property
    def device_bytes(self) -> int:
        """All parts on the device."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Setting:
    """What memory depends on beside the model's shape.

    lanes:          what the sharing of V lanes among D ranks costs.
    recomputes:     blocks are recomputed in the backward pass (activation_checkpointing: block).
    device:         cpu or cuda.
    V:              lanes.
    strategy:       replicate or shard; with D = 1 there is nothing to shard.
    implementation: of the optimizer: fused works in place, foreach makes a temporary copy.
    """

    D: int
    mu_tok: int
    lanes: UnevenCost
    precision: str
    recomputes: bool
    device: str
    V: int
    strategy: str = "replicate"
    implementation: str = "fused"

    @property
    def half_bytes(self) -> int:
        """Bytes of an element inside autocast: 2 for bf16, 4 for fp32."""
        return 2 if self.precision == "bf16" else FP32_BYTES

    @property
    def is_sharded(self) -> bool:
        """Whether weights are sharded."""
        return self.strategy == "shard" and self.D > 1
