"""Rules across fields.  Their problems are reported together with those of single fields."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from llmrun.config.batch_remedies import hint_for
from llmrun.config.batch_rules import Fault, describe, faults, stated
from llmrun.config.keys import shown_key
from llmrun.config.optimizer_rules import groups_belong_to_muon, setting_belongs_to_muon
from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.schema import Config, MuonConfig
from llmrun.core.batch import show_quotient
from llmrun.errors import Place, Problem

Check = Callable[[Config], list[Problem]]


class GivenAt(Protocol):
    """Where a value was given, and its key in the user's spelling."""

    @property
    def spelled(self) -> str: ...  # noqa: D102

    @property
    def location(self) -> SourceLocation: ...  # noqa: D102


@dataclass(frozen=True)
class Rule:
    """A rule and the keys that it reads; it runs only if all of them are valid.

    Its problem is reported at the first key of `reads` that the user gave.
    """

    reads: tuple[str, ...]
    check: Check


def check_rules(
    config: Config, rules: Iterable[Rule], given: Mapping[str, GivenAt], problems: Problems
) -> None:
    """Add what the rules find to `problems`."""
    for rule in rules:
        for problem in rule.check(config):
            key = next((key for key in rule.reads if key in given), None)
            location = given[key].location if key else SourceLocation(0, Place(problems.source))
            spelled = given[key].spelled if key else shown_key(rule.reads[0])
            problems.add(location, problem.message, spelled, problem.hint)


def batch_rule(fault: Fault) -> Check:
    """A check that the batch does not have `fault`."""

    def check(config: Config) -> list[Problem]:
        s = stated(config)
        return [Problem(describe(s, fault), hint=hint_for(s, fault))] if fault in faults(s) else []

    return check


def warmup_fits(config: Config) -> list[Problem]:
    """Warm-up ends within the run."""
    warmup, T = config.schedule.warmup_tokens, config.T_tokens
    if warmup <= T:
        return []
    message = f"warmup_tokens must be at most T_tokens = {T:,}, got {warmup:,}"
    return [
        Problem(
            message, hint=f"set `--set schedule.warmup_tokens={T // 50}`, 2 % of the run, or at most {T:,}"
        )
    ]


def decay_belongs_to_constant(config: Config) -> list[Problem]:
    """`decay_tokens` requires a constant schedule."""
    schedule = config.schedule
    if schedule.decay_tokens is None or schedule.name == "constant":
        return []
    message = (
        f"decay_tokens requires schedule.name = constant, got {schedule.name}, which decays until the end"
    )
    return [Problem(message, hint="set `--set schedule.decay_tokens=null` or `--set schedule.name=constant`")]


def decay_fits(config: Config) -> list[Problem]:
    """Warm-up and decay do not overlap."""
    schedule, T = config.schedule, config.T_tokens
    warmup, decay = schedule.warmup_tokens, schedule.decay_tokens
    if decay is None or schedule.name != "constant" or warmup > T or warmup + decay <= T:
        return []
    message = f"warmup_tokens + decay_tokens must be at most T_tokens = {T:,}, got {warmup:,} + {decay:,}"
    return [Problem(message, hint=f"set `--set schedule.decay_tokens={T - warmup}` or less")]


def kv_heads_divide(config: Config) -> list[Problem]:
    """n_kv_heads divides n_heads."""
    heads, kv_heads = config.model.n_heads, config.model.n_kv_heads
    if kv_heads is None or heads % kv_heads == 0:
        return []
    near = [k for k in (_divisor_near(heads, kv_heads, -1), _divisor_near(heads, kv_heads, +1)) if k]
    hint = " or ".join(f"`--set model.n_kv_heads={k}`" for k in near)
    return [
        Problem(f"n_heads must be a multiple of n_kv_heads = {kv_heads:,}, got {heads:,}", hint=f"set {hint}")
    ]


def _divisor_near(n: int, start: int, direction: int) -> int | None:
    """The divisor of n nearest to `start`, at most it (direction -1) or at least it (+1)."""
    outwards = range(min(start, n), 0, -1) if direction < 0 else range(start, n + 1)
    return next((d for d in outwards if n % d == 0), None)


def heads_divide_width(config: Config) -> list[Problem]:
    """n_heads divides d_model, unless head_dim is given."""
    model = config.model
    if model.head_dim is not None or model.d_model % model.n_heads == 0:
        return []
    unit = model.n_heads * (2 if model.position == "rope" else 1)
    below = model.d_model // unit * unit
    widths = [width for width in (below, below + unit) if width]
    hint = " or ".join(f"`--set model.d_model={width}`" for width in widths)
    each = show_quotient(model.d_model, model.n_heads)
    message = (
        f"d_model must be a multiple of n_heads = {model.n_heads:,}, got {model.d_model:,} ({each} per head)"
    )
    return [Problem(message, hint=f"set {hint}, or give head_dim")]


def rope_needs_even_heads(config: Config) -> list[Problem]:
    """Rotary positions require an even head_dim."""
    model = config.model
    if model.position != "rope" or (model.head_dim is None and model.d_model % model.n_heads):
        return []
    head_dim = model.head_dim or model.d_model // model.n_heads
    if head_dim % 2 == 0:
        return []
    origin = "" if model.head_dim else " (d_model/n_heads)"
    message = f"head_dim must be even for position = rope, got {head_dim:,}{origin}"
    return [Problem(message, hint=f"set `--set model.head_dim={head_dim + 1}` or another position")]


def kept_steps_are_saved(config: Config) -> list[Problem]:
    """keep_every_steps is a multiple of every_steps."""
    keep, every = config.checkpoint.keep_every_steps, config.checkpoint.every_steps
    if keep is None or (every is not None and keep % every == 0):
        return []
    if every is None:
        message = f"keep_every_steps = {keep:,} requires checkpoint.every_steps, which is null"
        return [Problem(message, hint=f"set `--set checkpoint.every_steps={keep}` or a divisor of it")]
    message = f"keep_every_steps must be a multiple of every_steps = {every:,}, got {keep:,}"
    return [
        Problem(
            message, hint=f"set `--set checkpoint.keep_every_steps={max(1, round(keep / every)) * every}`"
        )
    ]


def comparison_requires_bitwise_mode(config: Config) -> list[Problem]:
    """Comparing with a named run requires bitwise mode."""
    wanted = config.reproducibility.compare_with
    if config.reproducibility.mode == "bitwise" or wanted in ("auto", "none"):
        return []
    message = f"compare_with = {wanted} requires reproducibility.mode = bitwise, got statistical"
    hint = "set `--set reproducibility.compare_with=none`; `monitor.baseline` watches the loss"
    return [Problem(message, hint=hint)]


GB, MU, L, V, D, A = (f"batch.{name}" for name in ("gb_tok", "mu_tok", "L_ctx", "V", "D", "A"))

AGREEMENT = Rule((A, GB, MU, D), batch_rule("agreement"))

RULES: tuple[Rule, ...] = (
    Rule((MU, L), batch_rule("sequences")),
    Rule((GB, MU), batch_rule("whole")),
    Rule((GB, D, MU), batch_rule("ranks")),
    AGREEMENT,
    Rule((V, GB, MU), batch_rule("lanes")),
    Rule((D, V, GB, MU), batch_rule("room")),
    Rule(("T_tokens", GB), batch_rule("steps")),
    Rule(("schedule.warmup_tokens", "T_tokens"), warmup_fits),
    Rule(("schedule.decay_tokens", "schedule.name"), decay_belongs_to_constant),
    Rule(("schedule.decay_tokens", "schedule.name", "schedule.warmup_tokens", "T_tokens"), decay_fits),
    Rule(("model.n_kv_heads", "model.n_heads"), kv_heads_divide),
    Rule(("model.d_model", "model.n_heads", "model.head_dim"), heads_divide_width),
    Rule(("model.head_dim", "model.d_model", "model.n_heads", "model.position"), rope_needs_even_heads),
    Rule(("optimizer.groups", "optimizer.name"), groups_belong_to_muon),
    *(
        Rule((f"optimizer.muon.{name}", "optimizer.name"), setting_belongs_to_muon(name))
        for name in MuonConfig.model_fields
    ),
    Rule(("checkpoint.keep_every_steps", "checkpoint.every_steps"), kept_steps_are_saved),
    Rule(("reproducibility.compare_with", "reproducibility.mode"), comparison_requires_bitwise_mode),
)
