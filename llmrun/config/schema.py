"""The config of a run: what each field means, its unit, its bounds, and whether it may change bits."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from llmrun.config.fields import (
    Quantity,
    Section,
    as_arguments,
    as_names,
    as_tuple,
    numeric,
    operational,
    section,
)

Positive = Annotated[Quantity, Field(ge=1)]
NotNegative = Annotated[Quantity, Field(ge=0)]
Count = Annotated[Quantity, Field(ge=1, le=65_536)]
"""Blocks, heads, ranks, lanes: what is iterated over."""
Width = Annotated[Quantity, Field(ge=1, le=2**24)]
Length = Annotated[Quantity, Field(ge=1, le=2**31 - 1)]
"""Token ids and positions are int32."""
RunName = Annotated[str, Field(min_length=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]

MU_TOK_NAMES = ("\u03bc_tok", "\u00b5_tok", "mu_tok", "micro_tok")
"""μ_tok with the Greek letter, with the micro sign, and in ASCII."""


FACTORY_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class ModelConfig(Section):
    """The decoder-only transformer, or a model of the user's own (`factory`)."""

    preset: str | None = numeric(None, unit="name", allowed="the name of a published model, such as llama3-8b", meaning="Shape of a published model, for the keys of `model` and `batch.L_ctx` that are not given; some presets are for `plan` only")  # fmt: skip
    n_layers: Count = numeric(6, unit="blocks", meaning="Number of transformer blocks")
    d_model: Width = numeric(256, unit="elements", meaning="Width of the residual stream")
    n_heads: Count = numeric(8, unit="heads", meaning="Number of query heads")
    n_kv_heads: Count | None = numeric(
        None, unit="heads", meaning="Number of key and value heads; default n_heads"
    )
    head_dim: Width | None = numeric(
        None, unit="elements", meaning="Width of one head; default d_model / n_heads"
    )
    d_ff: Width | None = numeric(None, unit="elements", meaning="Inner width of the MLP; default 4·d_model for gelu, 8/3·d_model rounded up to a multiple of 64 for swiglu")  # fmt: skip
    vocab_size: Length | None = numeric(None, unit="tokens", meaning="Rows of the token table; default: vocabulary of the dataset's tokenizer")  # fmt: skip
    tie_embeddings: bool = numeric(
        True, unit="true or false", meaning="Share the token table with the output head"
    )
    mlp: Literal["swiglu", "gelu"] = numeric("swiglu", unit="name", meaning="Kind of MLP")
    norm: Literal["rmsnorm", "layernorm"] = numeric("rmsnorm", unit="name", meaning="Kind of normalisation")
    norm_eps: float = numeric(
        1e-5, unit="1", meaning="Added to the variance before the square root", gt=0, lt=1
    )
    position: Literal["rope", "learned", "alibi", "none"] = numeric(
        "rope", unit="name", meaning="Position encoding"
    )
    rope_theta: float = numeric(10000.0, unit="1", meaning="Base of the rotary frequencies", gt=1, lt=1e12)
    bias: bool = numeric(False, unit="true or false", meaning="Biases in linear layers and LayerNorm")
    qkv_bias: bool = numeric(
        False, unit="true or false", meaning="Biases in the query, key and value projections"
    )
    qk_norm: bool = numeric(False, unit="true or false", meaning="RMSNorm on each query and key head")
    dropout: float = numeric(
        0.0, unit="probability", meaning="Dropout on embeddings and residual branches", ge=0, lt=1
    )
    factory: str | None = numeric(None, unit="function", allowed="package.module:function", meaning="Function of your own that returns the model, an nn.Module (docs/own-model.md); then only args, import_root and vocab_size apply in this section", pattern=FACTORY_PATTERN)  # fmt: skip
    args: Annotated[dict[str, Any], BeforeValidator(as_arguments)] | None = numeric(None, unit="mapping", allowed="a mapping of the factory's arguments to values", meaning="Keyword arguments of the factory")  # fmt: skip
    import_root: str | None = operational(None, unit="path", meaning="Directory that the factory's module is looked up in, after the installed packages; relative to the config file, default its directory", min_length=1)  # fmt: skip


class BatchConfig(Section):
    """One global batch: GB_tok = D · A · μ_tok."""

    gb_tok: Positive = numeric(512 * 1024, unit="tokens per optimizer step", meaning="Tokens per optimizer step over all ranks", validation_alias=AliasChoices("GB_tok", "gb_tok"), serialization_alias="GB_tok")  # fmt: skip
    mu_tok: Positive = numeric(16 * 1024, unit="tokens per rank and forward-backward", meaning="Tokens per rank in one forward-backward", validation_alias=AliasChoices(*MU_TOK_NAMES), serialization_alias="μ_tok")  # fmt: skip
    L_ctx: Length = numeric(2048, unit="tokens", meaning="Context length; divides μ_tok")
    V: Count | None = numeric(None, unit="lanes", meaning="Lanes in which gradients are added; divides M = GB_tok/μ_tok; default the largest power of two up to 8 that divides M")  # fmt: skip
    D: Count | None = operational(None, unit="ranks", meaning="Data-parallel degree; default the largest divisor of M up to min(GPUs of this machine, V), else 1")  # fmt: skip
    A: Positive | None = operational(None, unit="micro-batches per rank and step", meaning="Accumulation steps, derived as GB_tok/(D·μ_tok); stated, it must agree")  # fmt: skip
    uneven: Literal["refuse", "allow"] = operational("refuse", unit="name", meaning="Whether a new run may have a D that does not divide M (every D from 1 to V gives the same bits)")  # fmt: skip


class OptimizerConfig(Section):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101); no decay on norms and biases."""

    name: Literal["adamw"] = numeric("adamw", unit="name", meaning="Optimizer")
    lr: float = numeric(3e-4, unit="1 per step", meaning="Peak learning rate", gt=0, le=10)
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(as_tuple)] = numeric((0.9, 0.95), unit="1", allowed="a list of two numbers of at least 0 and below 1, such as [0.9, 0.95]", meaning="Decay rates of the first and second moment")  # fmt: skip
    eps: float = numeric(1e-8, unit="1", meaning="Added to the square root of the second moment", gt=0, le=1)
    weight_decay: float = numeric(0.1, unit="1", meaning="Decoupled weight decay", ge=0, le=10)
    grad_clip: float | None = numeric(1.0, unit="gradient norm", meaning="Maximum global gradient norm; null: no clipping", gt=0)  # fmt: skip
    implementation: Literal["fused", "foreach"] = numeric("fused", unit="name", meaning="Torch kernels that update the weights")  # fmt: skip


class ScheduleConfig(Section):
    """Learning rate over tokens: linear warm-up, then the named shape."""

    name: Literal["cosine", "linear", "constant"] = numeric("cosine", unit="name", meaning="Shape after warm-up; constant ends with a linear decay")  # fmt: skip
    warmup_tokens: NotNegative = numeric(
        0, unit="tokens", meaning="Tokens of linear warm-up; at most T_tokens"
    )
    final_lr_fraction: float = numeric(0.1, unit="fraction of lr", meaning="Learning rate at the end, as a fraction of the peak", ge=0, le=1)  # fmt: skip
    decay_tokens: NotNegative | None = numeric(None, unit="tokens", meaning="For constant: tokens of linear decay at the end; default a tenth of the run")  # fmt: skip


class DataConfig(Section):
    """Where tokens come from."""

    path: str | None = operational(
        None, unit="path", meaning="Dataset directory made by `llmrun data prepare`", min_length=1
    )
    num_workers: NotNegative = operational(2, unit="processes per rank", meaning="Loader workers", le=256)
    verify: Literal["always", "never"] = operational("always", unit="name", meaning="Check each shard's sha256 when it is first opened")  # fmt: skip
    on_damage: Literal["fail"] = operational("fail", unit="name", meaning="Response to a damaged shard")
    order_file: Literal["auto", "always", "never"] = operational("auto", unit="name", meaning="Write the order of samples to a file; auto: if at most 1 GiB")  # fmt: skip


class EvalConfig(Section):
    """Validation perplexity on a fixed set of windows."""

    every_steps: Positive | None = operational(
        50, unit="steps", meaning="Evaluate every n steps and at the end; null: never"
    )
    windows: Positive = operational(
        64, unit="windows of L_ctx tokens", meaning="Size of the fixed validation set"
    )


class CheckpointConfig(Section):
    """When checkpoints are saved and which are kept."""

    every_steps: Positive | None = operational(
        None, unit="steps", meaning="Save every n steps; null: by minutes only"
    )
    every_minutes: Positive | None = operational(
        240, unit="minutes", meaning="Save every n minutes; null: by steps only"
    )
    keep_last: Positive = operational(2, unit="checkpoints", meaning="Newest checkpoints kept")
    keep_best: bool = operational(True, unit="true or false", meaning="Save at and keep the best val_ppl")
    keep_every_steps: Positive | None = operational(
        None, unit="steps", meaning="Keep checkpoints at multiples of n permanently"
    )
    on_disk_full: Literal["continue", "stop"] = operational("continue", unit="name", meaning="Response to a full disk while saving: continue and retry at the next save, or stop")  # fmt: skip


class ReproducibilityConfig(Section):
    """The promise of equal bits, and a run to compare with."""

    mode: Literal["bitwise", "statistical"] = numeric(
        "bitwise",
        unit="name",
        meaning="Same fingerprint, same bits (bitwise); statistical: torch's own reductions, no determinism switches",
    )
    compare_with: str = operational("auto", unit="name", allowed="auto, none, or a run by name or path", meaning="Compare the ledger, step by step, with an earlier run of the same fingerprint; auto looks for one in runs_dir", min_length=1)  # fmt: skip
    on_difference: Literal["warn", "stop"] = operational("warn", unit="name", meaning="Response to the first difference from that earlier run: warn, or stop the segment (exit 4)")  # fmt: skip


class MonitorConfig(Section):
    """Runs that training is compared with as it goes."""

    baseline: Annotated[tuple[RunName, ...], BeforeValidator(as_names, json_schema_input_type=tuple[RunName, ...] | RunName)] = operational((), unit="runs", allowed="a list of runs by name, path or pattern, such as [base-1, base-2] or [base-*]", meaning="Warn if the smoothed loss leaves the noise band of these runs, at least two")  # fmt: skip


class HardwareConfig(Section):
    """The machine that trains, and the prices that `plan` uses."""

    device: Literal["auto", "cpu", "cuda"] = numeric("auto", unit="name", meaning="Device of the tensors; auto is cuda if there is a GPU")  # fmt: skip
    threads_per_rank: Positive = numeric(1, unit="threads", meaning="Intra-op threads of each rank; changes bits on CPU", le=1024)  # fmt: skip
    accelerator: str | None = operational(
        None, unit="row of the hardware table", meaning="Accelerator for plan and MFU"
    )
    assumed_mfu: float = operational(
        0.4, unit="fraction of peak", meaning="MFU assumed by plan", ge=0.001, le=1
    )
    PUE: float = operational(1.15, unit="1", meaning="Power usage effectiveness of the site", ge=1, le=5)
    yuan_per_kWh: float = operational(0.6, unit="¥/kWh", meaning="Price of energy", ge=0, le=1e6)
    yuan_per_GPU_hour: float | None = operational(None, unit="¥/GPU-hour", meaning="Price of a GPU-hour; null: unknown", ge=0, le=1e6)  # fmt: skip
    kgCO2_per_kWh: float = operational(0.5366, unit="kg/kWh", meaning="CO2 of a kWh; default the mean of the Chinese grid in 2022 (Ministry of Ecology and Environment, December 2024)", ge=0, le=100)  # fmt: skip
    watts_per_device: float | None = operational(None, unit="W", meaning="Mean power of one device as measured; null: its TDP", ge=0.1, le=1e5)  # fmt: skip
    checkpoint_GBps: float = operational(2.0, unit="10^9 bytes/s", meaning="Rate at which all ranks together write a checkpoint to disk", ge=1e-3, le=1e6)  # fmt: skip
    device_MTBF_hours: float = operational(50_700.0, unit="hours", meaning="Mean time between unexpected interruptions of one device; default from Llama 3 405B: 419 in 54 days on 16,384 (arXiv 2407.21783, section 3.3.4)", ge=1, le=1e9)  # fmt: skip
    restart_minutes: float = operational(10.0, unit="minutes", meaning="Time from an interruption until training continues: detection, start, loading; an assumption", ge=0, le=1e5)  # fmt: skip
    table: str | None = operational(None, unit="path", meaning="YAML file with your own accelerators, in the format of the built-in hardware table", min_length=1)  # fmt: skip


NAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"


class Config(Section):
    """One pre-training experiment, in exact units."""

    name: str = operational("run", unit="name", meaning="First part of the run directory's name", allowed="1 to 100 characters of A-Z, a-z, 0-9, '.', '_' and '-', not starting with a dot", pattern=NAME_PATTERN, max_length=100)  # fmt: skip
    seed: int = numeric(42, unit="integer", meaning="Key of every random stream", ge=0, le=2**63 - 1)
    T_tokens: Annotated[Quantity, Field(ge=1)] = numeric(10**12, unit="tokens", meaning="Training tokens of the whole run")  # fmt: skip
    runs_dir: str = operational("runs", unit="path", meaning="Directory for run directories", min_length=1)
    model: ModelConfig = section(
        ModelConfig, "The decoder-only transformer, or a model of your own (`factory`)"
    )
    batch: BatchConfig = section(BatchConfig, "One global batch: GB_tok = D·A·μ_tok")
    optimizer: OptimizerConfig = section(
        OptimizerConfig,
        "The update rule: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), no decay on norms and biases",
    )
    schedule: ScheduleConfig = section(
        ScheduleConfig, "Learning rate over tokens: linear warm-up, then the named shape"
    )
    precision: Literal["fp32", "bf16"] = numeric("bf16", unit="name", meaning="fp32, or bf16 autocast over fp32 master weights")  # fmt: skip
    strategy: Literal["replicate", "shard"] = operational("replicate", unit="name", meaning="What ranks shard: replicate the optimizer state, shard also weights and gradients (FSDP2)")  # fmt: skip
    activation_checkpointing: Literal["none", "block"] = operational("none", unit="name", meaning="Recompute each block in the backward pass")  # fmt: skip
    compile: Literal[False] = numeric(False, unit="true or false", meaning="torch.compile; only eager mode is supported so far")  # fmt: skip
    data: DataConfig = section(DataConfig, "Where tokens come from")
    eval: EvalConfig = section(EvalConfig, "Validation perplexity on a fixed set of windows")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "When checkpoints are saved and which are kept")
    reproducibility: ReproducibilityConfig = section(
        ReproducibilityConfig, "The promise of equal bits, and a run to compare with"
    )
    monitor: MonitorConfig = section(MonitorConfig, "Runs that training is compared with as it goes")
    hardware: HardwareConfig = section(
        HardwareConfig, "The machine that trains, and the prices that `plan` uses"
    )
