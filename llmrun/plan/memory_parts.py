"""The parts of a rank's memory, and the settings that it depends on."""

from dataclasses import dataclass

from llmrun.core.lanes import UnevenCost

FP32_BYTES = 4


@dataclass(frozen=True)
class MemoryPart:
    """One part of a rank's memory.

    name:    key of the part; its text is translated.
    formula: with numbers, without words; empty if the bytes were measured.
    means:   a phrase that explains the formula; translated.
    """

    name: str
    bytes: int
    formula: str
    means: str


@dataclass(frozen=True)
class Memory:
    """Memory of one rank, in bytes, at the moment of a step when it is largest.

    parts:             on the device; on a CPU `checkpoint_buffer` is one of them.
    checkpoint_buffer: host memory with the copy of the state that is being written.
    moment:            the name of that moment; None if the activations are unknown: then `parts` holds the rest only.
    """

    parts: tuple[MemoryPart, ...]
    checkpoint_buffer: MemoryPart
    moment: str | None

    @property
    def state_bytes(self) -> int:
        """The sum of the known parts on the device."""
        return sum(part.bytes for part in self.parts)

    @property
    def device_bytes(self) -> int | None:
        """The sum of all parts on the device; None if the activations are unknown."""
        return None if self.moment is None else self.state_bytes


@dataclass(frozen=True)
class Setting:
    """What memory depends on, apart from the model's shape.

    mu_tok:         tokens per rank and forward-backward.
    lanes:          the cost of sharing V lanes among D ranks.
    precision:      fp32 or bf16.
    recomputes:     whether blocks are recomputed in the backward pass (activation_checkpointing: block).
    device:         cpu or cuda.
    strategy:       replicate or shard; with D = 1 there is nothing to shard.
    implementation: of the optimizer; fused works in place, foreach makes a temporary copy.
    muon_share:     `MuonWork.share`; 0 if AdamW updates everything.
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
    muon_share: float = 0.0

    @property
    def half_bytes(self) -> int:
        """Bytes per element inside autocast: 2 for bf16, 4 for fp32."""
        return 2 if self.precision == "bf16" else FP32_BYTES

    @property
    def is_sharded(self) -> bool:
        """Whether weights are sharded."""
        return self.strategy == "shard" and self.D > 1
