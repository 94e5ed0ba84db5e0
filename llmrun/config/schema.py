"""The config of a run: what each field means, its unit, its bounds, and whether it may change bits."""

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from llmrun.config.fields import Quantity, Section, as_names, as_tuple, numeric, operational, section

Positive = Annotated[Quantity, Field(ge=1)]
NotNegative = Annotated[Quantity, Field(ge=0)]
Count = Annotated[Quantity, Field(ge=1, le=65_536)]
"""Blocks, heads, ranks, lanes: what is gone through one by one."""
Width = Annotated[Quantity, Field(ge=1, le=2**24)]
Length = Annotated[Quantity, Field(ge=1, le=2**31 - 1)]
"""Token ids and positions are int32."""
RunName = Annotated[str, Field(min_length=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]

MU_TOK_NAMES = ("\u03bc_tok", "\u00b5_tok", "mu_tok", "micro_tok")
"""μ_tok with the Greek letter, with the micro sign, and in ASCII."""


class ModelConfig(Section):
    """The decoder-only transformer."""

    preset: str | None = numeric(None, unit="name", allowed="the name of a published model, such as llama3-8b", message="Shape of a published model: fills the keys of `model` and the `batch.L_ctx` that are not given; some are for `plan` only")  # fmt: skip
    n_layers: Count = numeric(6, unit="blocks", message="Number of transformer blocks")
    d_model: Width = numeric(256, unit="elements", message="Width of the residual stream")
    n_heads: Count = numeric(8, unit="heads", message="Number of query heads")
    n_kv_heads: Count | None = numeric(
        None, unit="heads", message="Number of key and value heads; default n_heads"
    )
    head_dim: Width | None = numeric(
        None, unit="elements", message="Width of one head; default d_model / n_heads"
    )
    d_ff: Width | None = numeric(None, unit="elements", message="Inner width of the MLP; default 4·d_model for gelu, 8/3·d_model rounded up to a multiple of 64 for swiglu")  # fmt: skip
    vocab_size: Length | None = numeric(None, unit="tokens", message="Size of the token table; default that of the dataset's tokenizer")  # fmt: skip
    tie_embeddings: bool = numeric(True, unit="true or false", message="Output head shares the token table")
    mlp: Literal["swiglu", "gelu"] = numeric("swiglu", unit="name", message="Kind of MLP")
    norm: Literal["rmsnorm", "layernorm"] = numeric("rmsnorm", unit="name", message="Kind of normalisation")
    norm_eps: float = numeric(1e-5, unit="1", message="Added to the variance under the root", gt=0, lt=1)
    position: Literal["rope", "learned", "alibi", "none"] = numeric(
        "rope", unit="name", message="How positions enter"
    )
    rope_theta: float = numeric(10000.0, unit="1", message="Base of the rotary frequencies", gt=1, lt=1e12)
    bias: bool = numeric(False, unit="true or false", message="Biases in linear layers and LayerNorm")
    qkv_bias: bool = numeric(
        False, unit="true or false", message="Biases in the query, key and value projections"
    )
    qk_norm: bool = numeric(False, unit="true or false", message="RMSNorm on each query and key head")
    dropout: float = numeric(
        0.0, unit="probability", message="Dropout on embeddings and residual branches", ge=0, lt=1
    )


class BatchConfig(Section):
    """One global batch: GB_tok = D · A · μ_tok."""

    gb_tok: Positive = numeric(512 * 1024, unit="tokens per optimizer step", message="Tokens per optimizer step over all ranks", validation_alias=AliasChoices("GB_tok", "gb_tok"), serialization_alias="GB_tok")  # fmt: skip
    mu_tok: Positive = numeric(16 * 1024, unit="tokens per rank and forward-backward", message="Tokens per rank in one forward-backward", validation_alias=AliasChoices(*MU_TOK_NAMES), serialization_alias="μ_tok")  # fmt: skip
    L_ctx: Length = numeric(2048, unit="tokens", message="Context length; divides μ_tok")
    V: Count | None = numeric(None, unit="lanes", message="Lanes in which gradients are added; divides M = GB_tok/μ_tok; default the largest power of two up to 8 that divides M")  # fmt: skip
    D: Count | None = operational(None, unit="ranks", message="Data-parallel degree; default the largest divisor of M up to min(GPUs of this machine, V), else 1")  # fmt: skip
    A: Positive | None = operational(None, unit="micro-batches per rank and step", message="Accumulation steps, derived as GB_tok/(D·μ_tok); stated, it must agree")  # fmt: skip
    uneven: Literal["refuse", "allow"] = operational("refuse", unit="name", message="A D that does not divide M: refused in a fresh config, or allowed (every D from 1 to V has the same bits)")  # fmt: skip


class OptimizerConfig(Section):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); no decay on norms and biases."""

    name: Literal["adamw"] = numeric("adamw", unit="name", message="Optimizer")
    lr: float = numeric(3e-4, unit="1 per step", message="Peak learning rate", gt=0, le=10)
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(as_tuple)] = numeric((0.9, 0.95), unit="1", allowed="a list of two numbers of at least 0 and below 1, such as [0.9, 0.95]", message="Decay of the first and second moment")  # fmt: skip
    eps: float = numeric(1e-8, unit="1", message="Added to the root of the second moment", gt=0, le=1)
    weight_decay: float = numeric(0.1, unit="1", message="Decoupled weight decay", ge=0, le=10)
    grad_clip: float | None = numeric(1.0, unit="gradient norm", message="Largest global gradient norm; null does not clip", gt=0)  # fmt: skip
    implementation: Literal["fused", "foreach"] = numeric("fused", unit="name", message="Which kernels of torch update the weights")  # fmt: skip


class ScheduleConfig(Section):
    """Learning rate over tokens: linear warm-up, then the named shape."""

    name: Literal["cosine", "linear", "constant"] = numeric("cosine", unit="name", message="Shape after warm-up; constant is followed by a linear decay")  # fmt: skip
    warmup_tokens: NotNegative = numeric(
        0, unit="tokens", message="Tokens of linear warm-up; at most T_tokens"
    )
    final_lr_fraction: float = numeric(0.1, unit="fraction of lr", message="Learning rate at the end, as a fraction of the peak", ge=0, le=1)  # fmt: skip
    decay_tokens: NotNegative | None = numeric(None, unit="tokens", message="For constant: tokens of linear decay at the end; default a tenth of the run")  # fmt: skip


class DataConfig(Section):
    """Where tokens come from."""

    path: str | None = operational(
        None, unit="path", message="Dataset directory made by `llmrun data prepare`", min_length=1
    )
    num_workers: NotNegative = operational(2, unit="processes per rank", message="Loader workers", le=256)
    verify: Literal["always", "never"] = operational("always", unit="name", message="Check each shard's sha256 when it is first opened")  # fmt: skip
    on_damage: Literal["fail"] = operational("fail", unit="name", message="What a damaged shard does")
    order_file: Literal["auto", "always", "never"] = operational("auto", unit="name", message="Write the order of samples as a file; auto up to 1 GiB")  # fmt: skip


class EvalConfig(Section):
    """Validation perplexity on a fixed set of windows."""

    every_steps: Positive | None = operational(
        50, unit="steps", message="Evaluate every n steps and at the end; null never"
    )
    windows: Positive = operational(
        64, unit="windows of L_ctx tokens", message="Size of the fixed validation set"
    )


class CheckpointConfig(Section):
    """When checkpoints are saved and which are kept."""

    every_steps: Positive | None = operational(
        None, unit="steps", message="Save every n steps; null: by minutes only"
    )
    every_minutes: Positive | None = operational(
        240, unit="minutes", message="Save every n minutes; null: by steps only"
    )
    keep_last: Positive = operational(2, unit="checkpoints", message="Newest checkpoints kept")
    keep_best: bool = operational(True, unit="true or false", message="Save at and keep the best val_ppl")
    keep_every_steps: Positive | None = operational(
        None, unit="steps", message="Keep checkpoints at multiples of n for ever"
    )
    on_disk_full: Literal["continue", "stop"] = operational("continue", unit="name", message="Full disk while saving: train on and retry at the next save, or stop")  # fmt: skip


class ReproducibilityConfig(Section):
    """What is promised and what is compared."""

    mode: Literal["bitwise", "statistical"] = numeric(
        "bitwise",
        unit="name",
        message="Same fingerprint, same bits (bitwise); statistical: torch's own reductions, no determinism switches",
    )
    compare_with: str = operational("auto", unit="name", allowed="auto, none, or a run by name or path", message="Compare the ledger with an earlier run of the same fingerprint as it grows; auto looks for one below runs_dir", min_length=1)  # fmt: skip
    on_difference: Literal["warn", "stop"] = operational("warn", unit="name", message="What the first difference from that earlier run does: a warning, or the end of the segment (exit 4)")  # fmt: skip


class MonitorConfig(Section):
    """What the run is watched against while it trains."""

    baseline: Annotated[tuple[RunName, ...], BeforeValidator(as_names)] = operational((), unit="runs", allowed="a list of runs by name, path or pattern, such as [base-1, base-2] or [base-*]", message="Warn when the smoothed loss leaves the noise band of these runs, at least two")  # fmt: skip


class HardwareConfig(Section):
    """The machine that trains, and the prices that `plan` uses."""

    device: Literal["auto", "cpu", "cuda"] = numeric("auto", unit="name", message="Where tensors live; auto is cuda where there is a GPU")  # fmt: skip
    threads_per_rank: Positive = numeric(1, unit="threads", message="Intra-op threads of each rank; changes bits on CPU", le=1024)  # fmt: skip
    accelerator: str | None = operational(
        None, unit="row of the hardware table", message="Device for plan and MFU"
    )
    assumed_mfu: float = operational(
        0.4, unit="fraction of peak", message="MFU assumed by plan", ge=0.001, le=1
    )
    PUE: float = operational(1.15, unit="1", message="Power usage effectiveness of the site", ge=1, le=5)
    yuan_per_kWh: float = operational(0.6, unit="¥/kWh", message="Price of energy", ge=0, le=1e6)
    yuan_per_GPU_hour: float | None = operational(None, unit="¥/GPU-hour", message="Price of a GPU-hour; null: unknown", ge=0, le=1e6)  # fmt: skip
    kgCO2_per_kWh: float = operational(0.5366, unit="kg/kWh", message="CO2 of a kWh; default the Chinese grid's mean of 2022 (Ministry of Ecology and Environment, December 2024)", ge=0, le=100)  # fmt: skip
    watts_per_device: float | None = operational(None, unit="W", message="Mean power of one device as measured; null: its TDP", ge=0.1, le=1e5)  # fmt: skip
    checkpoint_GBps: float = operational(2.0, unit="10^9 bytes/s", message="Rate at which all ranks together write a checkpoint to the disk that keeps it", ge=1e-3, le=1e6)  # fmt: skip
    device_MTBF_hours: float = operational(50_700.0, unit="hours", message="Mean time between unexpected interruptions of one device; default that of Llama 3 405B: 419 in 54 days on 16,384 (arXiv 2407.21783, section 3.3.4)", ge=1, le=1e9)  # fmt: skip
    restart_minutes: float = operational(10.0, unit="minutes", message="From an interruption until training goes on: noticed, started, loaded; an assumption", ge=0, le=1e5)  # fmt: skip
    table: str | None = operational(None, unit="path", message="YAML file with accelerators of your own, in the form of llmrun's hardware table", min_length=1)  # fmt: skip


NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


class Config(Section):
    """One pre-training experiment, in exact units."""

    name: str = operational("run", unit="name", message="Begins the run directory's name", allowed="1 to 100 characters of A-Z, a-z, 0-9, '.', '_' and '-', not starting with a dot", pattern=NAME_PATTERN, max_length=100)  # fmt: skip
    seed: int = numeric(42, unit="integer", message="Key of every random stream", ge=0, le=2**63 - 1)
    T_tokens: Annotated[Quantity, Field(ge=1)] = numeric(10**12, unit="tokens", message="Training tokens of the whole run")  # fmt: skip
    runs_dir: str = operational("runs", unit="path", message="Where run directories are made", min_length=1)
    model: ModelConfig = section(ModelConfig, "The decoder-only transformer")
    batch: BatchConfig = section(BatchConfig, "One global batch: GB_tok = D·A·μ_tok")
    optimizer: OptimizerConfig = section(
        OptimizerConfig,
        "The update rule: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), no decay on norms and biases",
    )
    schedule: ScheduleConfig = section(
        ScheduleConfig, "Learning rate over tokens: linear warm-up, then the named shape"
    )
    precision: Literal["fp32", "bf16"] = numeric("bf16", unit="name", message="fp32, or bf16 autocast over fp32 master weights")  # fmt: skip
    strategy: Literal["replicate", "shard"] = operational("replicate", unit="name", message="How state lies on ranks: replicate shards the optimizer state, shard also weights and gradients (FSDP2)")  # fmt: skip
    activation_checkpointing: Literal["none", "block"] = operational("none", unit="name", message="Recompute each block in the backward pass")  # fmt: skip
    compile: Literal[False] = numeric(False, unit="true or false", message="torch.compile; only eager mode is offered so far")  # fmt: skip
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
