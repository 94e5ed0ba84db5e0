"""The whole config of a run."""

from typing import Annotated, Literal

from pydantic import Field

from llmrun.config.fields import Quantity, Section, numeric, operational, section
from llmrun.config.sections import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    HardwareConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    ReproducibilityConfig,
    ScheduleConfig,
)

NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


class Config(Section):
    """One pre-training experiment, in exact units."""

    name: str = operational("run", unit="name", says="Begins the run directory's name", allowed="1 to 100 characters of A-Z, a-z, 0-9, '.', '_' and '-', not starting with a dot", pattern=NAME_PATTERN, max_length=100)  # fmt: skip
    seed: int = numeric(42, unit="integer", says="Key of every random stream", ge=0, le=2**63 - 1)
    T_tokens: Annotated[Quantity, Field(ge=1)] = numeric(10**12, unit="tokens", says="Training tokens of the whole run")  # fmt: skip
    runs_dir: str = operational("runs", unit="path", says="Where run directories are made", min_length=1)
    model: ModelConfig = section(ModelConfig, "The decoder-only transformer")
    batch: BatchConfig = section(BatchConfig, "One global batch: GB_tok = D·A·μ_tok")
    optimizer: OptimizerConfig = section(
        OptimizerConfig,
        "The update rule: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), no decay on norms and biases",
    )
    schedule: ScheduleConfig = section(
        ScheduleConfig, "Learning rate over tokens: linear warm-up, then the named shape"
    )
    precision: Literal["fp32", "bf16"] = numeric("bf16", unit="name", says="fp32, or bf16 autocast over fp32 master weights")  # fmt: skip
    strategy: Literal["replicate", "shard"] = operational("replicate", unit="name", says="How state lies on ranks: replicate shards the optimizer state, shard also weights and gradients (FSDP2)")  # fmt: skip
    activation_checkpointing: Literal["none", "block"] = operational("none", unit="name", says="Recompute each block in the backward pass")  # fmt: skip
    compile: Literal[False] = numeric(False, unit="true or false", says="torch.compile; only eager mode is offered so far")  # fmt: skip
    data: DataConfig = section(DataConfig, "Where tokens come from")
    eval: EvalConfig = section(EvalConfig, "Validation perplexity on a fixed set of windows")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "When checkpoints are saved and which are kept")
    reproducibility: ReproducibilityConfig = section(
        ReproducibilityConfig, "What is promised and what is compared"
    )
    monitor: MonitorConfig = section(MonitorConfig, "What the run is watched against while it trains")
    hardware: HardwareConfig = section(
        HardwareConfig, "The machine that trains, and the prices that `plan` uses"
    )
