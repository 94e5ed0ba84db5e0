"""Fill in every derived field of a config: a pure function of config, dataset and machine."""

from dataclasses import dataclass, field, replace

from llmrun.config.field_values import numeric_fields
from llmrun.config.keys import shown_key
from llmrun.config.load import LoadedConfig
from llmrun.config.model_shape import beyond_of, complete_model, shape_of
from llmrun.config.optimizer_rules import complete_optimizer, group_problems
from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.rules import AGREEMENT, RULES, check_rules
from llmrun.config.schema import Config, ScheduleConfig
from llmrun.core.batch import Batch, default_D, default_V
from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.facts import FactoryCall, ModelFacts
from llmrun.core.model.shape import ModelShape
from llmrun.core.model.spec import ModelSpec, TransformerSpec
from llmrun.core.parameter_groups import OptimizerSpec
from llmrun.core.training_spec import TrainingSpec
from llmrun.errors import InputError, Place


@dataclass(frozen=True)
class DatasetFacts:
    """The facts of a dataset that a config depends on.

    vocab_size: of the dataset's tokenizer.  train_tokens, val_tokens: tokens in each split.
    """

    vocab_size: int
    train_tokens: int
    val_tokens: int


@dataclass(frozen=True)
class MachineFacts:
    """The facts of a machine that a config depends on: its number of CUDA devices."""

    gpus: int


@dataclass(frozen=True)
class Resolved:
    """A config without open fields.

    config:   V, D, A, n_kv_heads, head_dim, d_ff, vocab_size, decay_tokens of a constant schedule, the settings of
              Muon if it is the optimizer, and hardware.device are filled in; A is None at an uneven D.
    shape:    of the built-in model; None for a model of the user's own.
    facts:    of a model of the user's own, if another process has read them.
    preset:   the published model that the config named.
    states_A: whether the user gave A, which then has to change with μ_tok and D.  Not compared: it belongs to the
              file, not to the run.
    """

    config: Config
    batch: Batch
    shape: ModelShape | None
    facts: ModelFacts | None = None
    preset: str | None = None
    states_A: bool = field(default=False, compare=False)

    @property
    def model(self) -> ModelSpec:
        """The model that the config asks for."""
        if self.shape is not None:
            return TransformerSpec(self.shape)
        return FactorySpec(factory_call(self.config), self.facts)


@dataclass(frozen=True)
class _Given:
    """Where a value was given, as `rules.GivenAt`."""

    spelled: str
    location: SourceLocation


def resolve(
    loaded: LoadedConfig,
    dataset: DatasetFacts | None,
    machine: MachineFacts,
    *,
    for_training: bool = False,
) -> Resolved:
    """The config of a run on this dataset and machine.

    dataset:      None without a dataset; then the config must give model.vocab_size.
    for_training: also refuse what stops a run but not a plan: `device: cuda` without a GPU, a preset that the
                  built-in model cannot train.
    Raises ConfigError with all problems across fields, dataset and machine.
    """
    problems = Problems(loaded.source)
    config = loaded.config
    given = {
        key: _Given(loaded.spelled.get(key, shown_key(key)), SourceLocation(0, where))
        for key, where in loaded.locations.items()
    }
    check_rules(config, RULES, given, problems)
    _check_vocabulary(loaded, dataset, problems)
    if dataset is not None:
        _check_windows(loaded, dataset, problems)
    if for_training and config.hardware.device == "cuda" and machine.gpus == 0:
        hint = "set `--set hardware.device=cpu`, or run on a machine with a GPU"
        _add(
            problems,
            loaded,
            "hardware.device",
            "device = cuda requires a GPU, and this machine has none",
            hint,
        )
    if for_training:
        _check_trainable(loaded, problems)
    problems.raise_if_any()
    config = _with_D(config, machine)
    check_rules(config, [AGREEMENT], given, problems)
    problems.raise_if_any()
    completed = _complete(config, dataset)
    _check_groups(loaded, completed, problems)
    problems.raise_if_any()
    return replace(
        completed,
        preset=loaded.config.model.preset,
        states_A=loaded.config.batch.A is not None,
    )


def resolve_for_D(resolved: Resolved, D: int) -> Resolved:
    """The same run on D ranks, from 1 to V; D need not divide M.  Raises InputError for any other D."""
    V = resolved.batch.V
    if not 1 <= D <= V:
        raise InputError(
            f"D must be from 1 to V = {V:,} in this run, got {D}",
            hints=["start a new run with a larger `batch.V`; a run keeps its V"],
        )
    batch = resolved.batch.with_D(D)
    changed = resolved.config.batch.model_copy(update={"D": D, "A": batch.A})
    return replace(resolved, batch=batch, config=resolved.config.model_copy(update={"batch": changed}))


def resolved_of(config: Config, D: int) -> Resolved:
    """A resolved config that was read back from a run, on D ranks; nothing is checked again."""
    changed = config.batch.model_copy(update={"D": D})
    return _complete(config.model_copy(update={"batch": changed}), None)


def training_spec(resolved: Resolved) -> TrainingSpec:
    """What training depends on: the numeric fields that the fingerprint covers, and how ranks share the work."""
    config = resolved.config
    spec = TrainingSpec.of(
        numeric_fields(config),
        D=resolved.batch.D,
        strategy=config.strategy,
        recompute_blocks=config.activation_checkpointing == "block",
    )
    # With the facts of a user's own model that another process has read: the launcher constructs none.
    return spec if resolved.facts is None else replace(spec, model=resolved.model)


def factory_call(config: Config) -> FactoryCall:
    """How the user's own model of a resolved config is made."""
    model = config.model
    assert model.factory is not None
    assert model.vocab_size is not None, "the config must be resolved"
    return FactoryCall(model.factory, model.args or {}, model.vocab_size, config.batch.L_ctx, config.seed)


def _add(problems: Problems, loaded: LoadedConfig, key: str, message: str, hint: str) -> None:
    """Add a problem at a key, wherever it was given."""
    location = SourceLocation(0, loaded.locations.get(key, Place(loaded.source)))
    problems.add(location, message, loaded.spelled.get(key, shown_key(key)), hint)


def _check_vocabulary(loaded: LoadedConfig, dataset: DatasetFacts | None, problems: Problems) -> None:
    """vocab_size is known and at least that of the tokenizer."""
    stated, key = loaded.config.model.vocab_size, "model.vocab_size"
    if stated is None and dataset is None:
        hint = "give `data.path` of a prepared dataset, or `--set model.vocab_size=50304`"
        _add(
            problems,
            loaded,
            key,
            "vocab_size is unknown: neither model.vocab_size nor a dataset is given",
            hint,
        )
    elif stated is not None and dataset is not None and stated < dataset.vocab_size:
        message = f"vocab_size must be at least that of the dataset's tokenizer, {dataset.vocab_size:,}, got {stated:,}"
        hint = f"leave vocab_size out, or set `--set {key}={dataset.vocab_size}` or more"
        _add(problems, loaded, key, message, hint)


def _check_windows(loaded: LoadedConfig, dataset: DatasetFacts, problems: Problems) -> None:
    """Each split that is read has at least one window, L_ctx + 1 tokens."""
    L_ctx, key = loaded.config.batch.L_ctx, "batch.L_ctx"
    used = {"training": dataset.train_tokens}
    if loaded.config.eval.every_steps is not None:
        used["validation"] = dataset.val_tokens
    for split, tokens in used.items():
        if tokens <= L_ctx:
            message = f"the {split} split must have at least L_ctx + 1 = {L_ctx + 1:,} tokens, got {tokens:,}"
            hint = "set a smaller `batch.L_ctx`, or prepare more data"
            if split == "validation":
                hint += ", or `--set eval.every_steps=null`"
            _add(problems, loaded, key, message, hint)
        elif split == "validation":
            _check_validation_windows(loaded, tokens, problems)


def _check_validation_windows(loaded: LoadedConfig, val_tokens: int, problems: Problems) -> None:
    """A stated `eval.windows` is at most the number of validation windows; the default is cut to it."""
    windows, key = loaded.config.eval.windows, "eval.windows"
    L_ctx = loaded.config.batch.L_ctx
    there = _windows_in(val_tokens, L_ctx)
    if key in loaded.locations and windows > there:
        message = f"windows must be at most the {there:,} windows of L_ctx = {L_ctx:,} in the validation split, got {windows:,}"
        hint = f"set `--set {key}={there}`, or prepare more validation text with `--val-fraction`"
        _add(problems, loaded, key, message, hint)


def _windows_in(n_tokens: int, L_ctx: int) -> int:
    """Windows in a split; each reads one token more than L_ctx."""
    return max(n_tokens - 1, 0) // L_ctx


def _check_trainable(loaded: LoadedConfig, problems: Problems) -> None:
    """The preset can be trained by the built-in model."""
    beyond = beyond_of(loaded.config.model)
    if beyond is None:
        return
    message = (
        f"the preset {loaded.config.model.preset} is for `llmrun plan` only: "
        f"the built-in model does not support {beyond.described()}"
    )
    hint = "leave `model.preset` out and give the shape by its keys, or use a preset of gpt2, gpt3, llama1, llama2 or llama3"
    _add(problems, loaded, "model.preset", message, hint)


def _check_groups(loaded: LoadedConfig, resolved: Resolved, problems: Problems) -> None:
    """The groups of the optimizer fit the model's parameters."""
    spec = OptimizerSpec.of(numeric_fields(resolved.config)["optimizer"])
    for shown, problem in group_problems(spec, resolved.model):
        place = loaded.locations.get(shown.partition("[")[0], Place(loaded.source))
        problems.add(SourceLocation(0, place), problem.message, shown, problem.hint)


def _with_D(config: Config, machine: MachineFacts) -> Config:
    """`config` with device, V and D filled in."""
    device = config.hardware.device
    if device == "auto":
        device = "cuda" if machine.gpus else "cpu"
    M = config.batch.gb_tok // config.batch.mu_tok
    V = config.batch.V or default_V(M)
    D = config.batch.D or default_D(M, V, machine.gpus if device == "cuda" else 0)
    return config.model_copy(
        update={
            "batch": config.batch.model_copy(update={"V": V, "D": D}),
            "hardware": config.hardware.model_copy(update={"device": device}),
        }
    )


def _complete(config: Config, dataset: DatasetFacts | None) -> Resolved:
    """The resolved config; all rules must hold."""
    vocab_size = config.model.vocab_size or (dataset.vocab_size if dataset else None)
    assert vocab_size is not None
    if dataset is not None and config.eval.every_steps is not None:
        there = _windows_in(dataset.val_tokens, config.batch.L_ctx)
        windows = min(config.eval.windows, there)
        config = config.model_copy(update={"eval": config.eval.model_copy(update={"windows": windows})})
    batch = _batch_of(config)
    changes = {
        "model": complete_model(config.model, vocab_size),
        "batch": config.batch.model_copy(update={"A": batch.A}),
        "optimizer": complete_optimizer(config.optimizer),
        "schedule": _complete_schedule(config.schedule, config.T_tokens),
    }
    config = config.model_copy(update=changes)
    shape = shape_of(config.model, batch.L_ctx) if config.model.factory is None else None
    return Resolved(config, batch, shape)


def _batch_of(config: Config) -> Batch:
    """The batch of a config whose V and D are filled in."""
    b = config.batch
    assert b.V is not None
    assert b.D is not None
    return Batch(b.gb_tok, b.mu_tok, b.L_ctx, b.V, b.D, config.T_tokens, config.schedule.warmup_tokens)


def _complete_schedule(schedule: ScheduleConfig, T_tokens: int) -> ScheduleConfig:
    """`schedule` with decay_tokens of a constant one filled in: a tenth of the run, at most what warm-up leaves."""
    if schedule.name != "constant" or schedule.decay_tokens is not None:
        return schedule
    decay = min(T_tokens // 10, T_tokens - schedule.warmup_tokens)
    return schedule.model_copy(update={"decay_tokens": decay})
