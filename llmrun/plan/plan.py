"""The plan of a run: everything that its config decides, before anything is started."""

from dataclasses import dataclass
from typing import Any

from llmrun.config.batch import Batch
from llmrun.config.resolve import DatasetFacts, Resolved
from llmrun.config.schema import Config
from llmrun.config.shape import ModelShape
from llmrun.lanes import UnevenCost, cost_of
from llmrun.plan.batch_diagram import micro_batches_per_rank
from llmrun.plan.checkpoint_size import CheckpointSize, checkpoint_size
from llmrun.plan.costs import Costs, Prices, costs_of
from llmrun.plan.flops import causal_flops_per_token, flops_6NT, flops_per_token, recomputed_flops_per_token
from llmrun.plan.hardware import Accelerator, accelerator_named
from llmrun.plan.memory import Memory, Setting, memory_of
from llmrun.plan.parameters import ParameterCount, count_parameters


@dataclass(frozen=True)
class FlopsCount:
    """FLOPs of the whole run, forward and backward.

    exact:      every matrix product, attention as the full L_ctx square.
    causal:     the same with half of the square.
    six_NT:     6·N_params·tokens_seen.            six_NT_total: the same with N_params_total.
    recomputed: what activation checkpointing adds; 0 where it is off.
    """

    per_token: int
    exact: int
    causal: int
    six_NT: int
    six_NT_total: int
    recomputed: int


@dataclass(frozen=True)
class Plan:
    """Everything that follows from a config.  Counts are exact integers."""

    config: Config
    batch: Batch
    shape: ModelShape
    lanes: UnevenCost
    parameters: ParameterCount
    flops: FlopsCount
    checkpoint: CheckpointSize
    memory: Memory
    costs: Costs
    accelerator: Accelerator | None
    train_tokens: int | None

    @property
    def A_per_rank(self) -> tuple[int, int]:
        """The fewest and the most micro-batches that a rank computes in one step."""
        return micro_batches_per_rank(self.batch, self.lanes)

    @property
    def epochs(self) -> float | None:
        """How often the run reads its training split; None without a dataset."""
        return self.batch.tokens_seen / self.train_tokens if self.train_tokens else None

    def as_json(self) -> dict[str, Any]:
        """The plan's keys for scripts; they are stable.  None is unknown."""
        batch, costs = self.batch, self.costs
        smallest, largest = self.A_per_rank
        return {
            "name": self.config.name,
            "GB_tok": batch.gb_tok,
            "mu_tok": batch.mu_tok,
            "L_ctx": batch.L_ctx,
            "A": batch.A,
            "A_per_rank": {"smallest": smallest, "largest": largest},
            "D": batch.D,
            "V": batch.V,
            "M": batch.M,
            "steps": batch.steps,
            "T_tokens": batch.T_tokens,
            "tokens_seen": batch.tokens_seen,
            "train_tokens": self.train_tokens,
            "epochs": self.epochs,
            "warmup_steps": batch.warmup_steps,
            "N_params": self.parameters.N_params,
            "N_params_total": self.parameters.N_params_total,
            "FLOPs_6NT": self.flops.six_NT,
            "FLOPs": self.flops.exact,
            "FLOPs_per_token": self.flops.per_token,
            "accelerator": self.accelerator.name if self.accelerator else None,
            "time_hours": costs.time_hours,
            "GPU_hours": costs.GPU_hours,
            "energy_kWh": costs.energy_kWh,
            "yuan_energy": costs.yuan_energy,
            "yuan_GPU": costs.yuan_GPU,
            "unknown": costs.unknown,
            "idle_share": self.lanes.idle_share,
            "checkpoint_bytes": self.checkpoint.total,
            "checkpoint_bytes_per_rank": self.checkpoint.per_rank,
            "checkpoint_buffer_bytes_per_rank": self.memory.checkpoint_buffer.bytes,
            "memory_bytes_per_rank": self.memory.device_bytes,
            "memory_parts_bytes": {part.name.replace(" ", "_"): part.bytes for part in self.memory.parts},
        }


@dataclass(frozen=True)
class Remark:
    """Something worth a warning: a statement and what to do."""

    says: str
    hint: str


def make_plan(resolved: Resolved, dataset: DatasetFacts | None = None, where: str | None = None) -> Plan:
    """The plan of a resolved config.

    dataset: token counts of its dataset, where there is one.
    where:   the place in the user's config that names the accelerator, for the message.
    Raises InputError for an accelerator that the hardware table does not have.
    """
    config, batch, shape = resolved.config, resolved.batch, resolved.shape
    lanes = cost_of(batch.V, batch.D)
    parameters = count_parameters(shape)
    recomputes = config.activation_checkpointing == "block"
    flops = flops_of(shape, parameters, batch.tokens_seen, recomputes=recomputes)
    hardware = config.hardware
    accelerator = accelerator_named(hardware.accelerator, where) if hardware.accelerator else None
    device = "cuda" if accelerator else hardware.device
    setting = Setting(
        batch.D, batch.mu_tok, lanes, config.precision, recomputes, device, batch.V, config.strategy
    )
    return Plan(
        config=config,
        batch=batch,
        shape=shape,
        lanes=lanes,
        parameters=parameters,
        flops=flops,
        checkpoint=checkpoint_size(parameters.N_params_total, batch.D),
        memory=memory_of(shape, setting),
        costs=costs_of(
            flops.exact,
            batch.D,
            idle_share=lanes.idle_share,
            accelerator=accelerator,
            precision=config.precision,
            mfu=hardware.assumed_mfu,
            prices=Prices(hardware.PUE, hardware.yuan_per_kWh, hardware.yuan_per_GPU_hour),
        ),
        accelerator=accelerator,
        train_tokens=dataset.train_tokens if dataset else None,
    )


def flops_of(shape: ModelShape, parameters: ParameterCount, tokens: int, *, recomputes: bool) -> FlopsCount:
    """FLOPs of training on `tokens` tokens."""
    per_token = flops_per_token(shape)
    return FlopsCount(
        per_token=per_token,
        exact=per_token * tokens,
        causal=causal_flops_per_token(shape) * tokens,
        six_NT=flops_6NT(parameters.N_params, tokens),
        six_NT_total=flops_6NT(parameters.N_params_total, tokens),
        recomputed=recomputed_flops_per_token(shape) * tokens if recomputes else 0,
    )


def remarks(plan: Plan) -> list[Remark]:
    """What the user should know before starting."""
    found = []
    batch = plan.batch
    if plan.lanes.idle_share > 0:
        smallest, largest = plan.A_per_rank
        cheap = max(D for D in range(1, batch.D + 1) if batch.V % D == 0)
        found.append(
            Remark(
                f"D = {batch.D} does not divide V = {batch.V}: ranks compute {smallest} to {largest} "
                f"micro-batches a step, and {plan.lanes.idle_share:.0%} of their time is waiting",
                f"D = {cheap} divides V; or start the run with a V that D = {batch.D} divides (other bits)",
            )
        )
    if plan.train_tokens and plan.train_tokens < batch.tokens_seen:
        found.append(
            Remark(
                f"the training split has {plan.train_tokens:,} tokens and the run sees "
                f"{batch.tokens_seen:,}: {plan.epochs:.2f} epochs",
                f"`--set T_tokens={plan.train_tokens // batch.gb_tok * batch.gb_tok}` is at most one epoch",
            )
        )
    return found
