"""The plan of a run: everything that follows from its config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmrun.config.resolve import DatasetFacts, Resolved, training_spec
from llmrun.config.schema import Config
from llmrun.core.batch import Batch
from llmrun.core.lanes import UnevenCost, cost_of
from llmrun.core.model.flops import (
    causal_flops_per_token,
    checkpointing_flops_per_token,
    flops_6NT,
    flops_per_token,
)
from llmrun.core.model.parameters import ParameterCount, count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.core.schedule import Rates, rates_of
from llmrun.errors import Place
from llmrun.plan.checkpoint_size import CheckpointSize, Retention, checkpoint_size, retention_in
from llmrun.plan.costs import Costs, Prices, costs_of, hours_at
from llmrun.plan.degrees import micro_batches_per_rank
from llmrun.plan.hardware import Accelerator, accelerator_named
from llmrun.plan.interruptions import Saving, configured_interval_s, saving_of
from llmrun.plan.memory import Memory, Setting, memory_of, state_memory

if TYPE_CHECKING:
    from llmrun.plan.fit import Fitting
    from llmrun.plan.forecast import TimeEstimate


class FlopsCount(NamedTuple):
    """FLOPs of the whole run, forward and backward.

    per_token:  `exact` of one token.
    exact:      every matrix product, attention as the full L_ctx square.
    causal:     the same with half of the square.
    six_NT:     6·N_params·tokens_seen.            six_NT_total: the same with N_params_total.
    recomputed: what activation checkpointing adds, as torch computes it; 0 if it is off.
    """

    per_token: int
    exact: int
    causal: int
    six_NT: int
    six_NT_total: int
    recomputed: int


class MeasuredRate(NamedTuple):
    """A measured throughput, used instead of the assumed MFU.

    tokens_per_second: of all ranks together.
    basis:             `timed`: steps timed now; `same_work`, `similar_work`: earlier runs on this machine.
    timed:             the timed steps, if that is the basis.
    """

    tokens_per_second: float
    basis: Literal["timed", "same_work", "similar_work"]
    timed: "TimeEstimate | None" = None


@dataclass(frozen=True)
class Plan:
    """Everything that follows from a config.  Counts are exact integers.

    shape:        of the built-in model; None for a model of the user's own, whose FLOPs, time and activations are unknown.
    model_kind:   the class of a model of the user's own; None for the built-in model.
    n_blocks:     blocks that can be sharded and recomputed one by one.
    flops:        None if unknown.
    setting:      what memory depends on.
    train_tokens: tokens of the training split; None without a dataset.
    preset:       the published model whose shape this is.
    measured:     None if the time is derived from an assumed MFU.
    states_A:     whether the user gave A.
    rates:        learning rates of the first step, the highest, of the last step.
    counted_FLOPs: of one token, forward and backward, as torch counts them in a model of the user's own; None if they
                  were not counted.
    """

    config: Config
    batch: Batch
    shape: ModelShape | None
    model_kind: str | None
    n_blocks: int
    lanes: UnevenCost
    parameters: ParameterCount
    flops: FlopsCount | None
    checkpoint: CheckpointSize
    retention: Retention
    saving: Saving
    setting: Setting
    memory: Memory
    costs: Costs
    accelerator: Accelerator | None
    train_tokens: int | None
    preset: str | None
    measured: MeasuredRate | None
    states_A: bool
    rates: Rates
    counted_FLOPs: int | None = None

    @property
    def A_per_rank(self) -> tuple[int, int]:
        """The fewest and the most micro-batches that a rank computes in one step."""
        return micro_batches_per_rank(self.batch, self.lanes)

    @property
    def FLOPs(self) -> int | None:
        """FLOPs of the whole run, forward and backward; None if unknown."""
        if self.flops is not None:
            return self.flops.exact
        return None if self.counted_FLOPs is None else self.counted_FLOPs * self.batch.tokens_seen

    @property
    def epochs(self) -> float | None:
        """How often the run reads its training split; None without a dataset."""
        return self.batch.tokens_seen / self.train_tokens if self.train_tokens else None


def make_plan(
    resolved: Resolved,
    dataset: DatasetFacts | None = None,
    where: Place | None = None,
    measured: MeasuredRate | None = None,
) -> Plan:
    """The plan of a resolved config.

    dataset:  token counts of its dataset, if there is one.
    where:    the place in the user's config that names the accelerator, for the message.
    measured: a throughput to use instead of the assumed MFU.
    Raises InputError if the hardware table does not have the accelerator.
    """
    config, batch, shape = resolved.config, resolved.batch, resolved.shape
    timed = None if measured is None else measured.timed
    lanes = cost_of(batch.V, batch.D)
    parameters = _parameters_of(resolved)
    recomputes = config.activation_checkpointing == "block"
    flops = None if shape is None else flops_of(shape, parameters, batch.tokens_seen, recomputes=recomputes)
    accelerator = _accelerator(config, where)
    setting = _setting(config, batch, lanes, accelerator)
    size = checkpoint_size(parameters.N_params_total, batch.D)
    costs = _costs(config, batch, flops, lanes, accelerator, measured)
    return Plan(
        config=config,
        batch=batch,
        shape=shape,
        model_kind=None if resolved.facts is None else resolved.facts.kind,
        n_blocks=len(resolved.model.blocks),
        lanes=lanes,
        parameters=parameters,
        flops=flops,
        checkpoint=size,
        retention=retention_in(config, batch.steps),
        saving=_saving(config, batch, size, costs.time_hours),
        setting=setting,
        memory=state_memory(setting, parameters.N_params_total, timed.peak_memory_bytes if timed else None)
        if shape is None
        else memory_of(shape, setting),
        costs=costs,
        accelerator=accelerator,
        train_tokens=dataset.train_tokens if dataset else None,
        preset=resolved.preset,
        measured=measured,
        states_A=resolved.states_A,
        counted_FLOPs=timed.FLOPs_per_token if timed else None,
        rates=rates_of(batch, training_spec(resolved).schedule, config.optimizer.lr),
    )


def _parameters_of(resolved: Resolved) -> ParameterCount:
    """Numbers of parameters: of the built-in model by its shape, of the user's own as it was constructed."""
    if resolved.shape is not None:
        return count_parameters(resolved.shape)
    assert resolved.facts is not None, "the facts of the model must have been read"
    total, tables = resolved.facts.n_parameters, resolved.facts.n_table_parameters
    return ParameterCount(total - tables, total, 0, tables, 0)


def _accelerator(config: Config, where: Place | None) -> Accelerator | None:
    hardware = config.hardware
    return accelerator_named(hardware.accelerator, where, hardware.table) if hardware.accelerator else None


def _setting(config: Config, batch: Batch, lanes: UnevenCost, accelerator: Accelerator | None) -> Setting:
    """What memory depends on.  A named accelerator means CUDA, whatever this machine has."""
    return Setting(
        D=batch.D,
        mu_tok=batch.mu_tok,
        lanes=lanes,
        precision=config.precision,
        recomputes=config.activation_checkpointing == "block",
        device="cuda" if accelerator else config.hardware.device,
        V=batch.V,
        strategy=config.strategy,
        implementation=config.optimizer.implementation,
    )


def _costs(
    config: Config,
    batch: Batch,
    flops: FlopsCount | None,
    lanes: UnevenCost,
    accelerator: Accelerator | None,
    measured: MeasuredRate | None,
) -> Costs:
    """Time, energy, CO2, money.  Recomputation adds no time: the assumed MFU includes it."""
    hardware = config.hardware
    return costs_of(
        None if flops is None else flops.exact,
        batch.D,
        idle_share=lanes.idle_share,
        accelerator=accelerator,
        precision=config.precision,
        mfu=hardware.assumed_mfu,
        prices=Prices(
            hardware.PUE,
            hardware.yuan_per_kWh,
            hardware.yuan_per_GPU_hour,
            hardware.kgCO2_per_kWh,
            hardware.watts_per_device,
        ),
        measured_hours=hours_at(batch.tokens_seen, measured.tokens_per_second) if measured else None,
    )


def _saving(config: Config, batch: Batch, size: CheckpointSize, time_hours: float | None) -> Saving:
    keep, hardware = config.checkpoint, config.hardware
    step_seconds = None if time_hours is None else time_hours * 3600 / batch.steps
    return saving_of(
        size,
        batch.D,
        GBps=hardware.checkpoint_GBps,
        device_MTBF_hours=hardware.device_MTBF_hours,
        restart_minutes=hardware.restart_minutes,
        configured_s=configured_interval_s(keep.every_steps, keep.every_minutes, step_seconds),
        run_hours=time_hours,
    )


def fitting(plan: Plan) -> "Fitting | None":
    """How the plan fits its accelerator's memory; None without an accelerator, or if the activations are unknown."""
    if plan.accelerator is None or plan.shape is None:
        return None
    from llmrun.plan.fit import fitting_of

    has = plan.accelerator.memory_bytes
    return fitting_of(plan.shape, plan.setting, plan.batch, has, states_A=plan.states_A)


def flops_of(shape: ModelShape, parameters: ParameterCount, tokens: int, *, recomputes: bool) -> FlopsCount:
    """FLOPs of training on `tokens` tokens."""
    per_token = flops_per_token(shape)
    return FlopsCount(
        per_token=per_token,
        exact=per_token * tokens,
        causal=causal_flops_per_token(shape) * tokens,
        six_NT=flops_6NT(parameters.N_params, tokens),
        six_NT_total=flops_6NT(parameters.N_params_total, tokens),
        recomputed=checkpointing_flops_per_token(shape) * tokens if recomputes else 0,
    )
