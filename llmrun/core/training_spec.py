"""What decides the bits of a run, read from the numeric fields that the fingerprint covers.

`TrainingSpec.of` takes the preimage of the fingerprint's part `config`, so training computes with exactly the values
that were digested.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from llmrun.core.batch import Batch
from llmrun.core.model.spec import ModelSpec, model_spec
from llmrun.core.parameter_groups import OptimizerSpec, ParameterGroup, parameter_groups


@dataclass(frozen=True)
class ScheduleSpec:
    """The learning-rate schedule, in tokens.  decay_tokens: of `constant` only."""

    name: Literal["cosine", "linear", "constant"]
    warmup_tokens: int
    final_lr_fraction: float
    decay_tokens: int | None


@dataclass(frozen=True)
class TrainingSpec:
    """One run as the training step sees it.

    device:           `cpu` | `cuda`.
    is_statistical:   sums are left to torch, and no determinism switch is set.
    strategy:         how state is spread over ranks; operational, changes no bit.
    recompute_blocks: activation checkpointing; operational, changes no bit.
    """

    seed: int
    batch: Batch
    model: ModelSpec
    optimizer: OptimizerSpec
    schedule: ScheduleSpec
    precision: Literal["fp32", "bf16"]
    device: str
    threads_per_rank: int
    is_statistical: bool
    strategy: Literal["replicate", "shard"]
    recompute_blocks: bool

    @classmethod
    def of(cls, numeric: Mapping[str, Any], *, D: int, strategy: Any, recompute_blocks: bool) -> Self:
        """The spec of a resolved config.

        numeric: the numeric fields, nested, with ASCII names and every default filled in.
        """
        batch, schedule = numeric["batch"], numeric["schedule"]
        return cls(
            seed=numeric["seed"],
            batch=Batch(
                gb_tok=batch["gb_tok"],
                mu_tok=batch["mu_tok"],
                L_ctx=batch["L_ctx"],
                V=batch["V"],
                D=D,
                T_tokens=numeric["T_tokens"],
                warmup_tokens=schedule["warmup_tokens"],
            ),
            model=model_spec(numeric["model"], batch["L_ctx"], numeric["seed"]),
            optimizer=OptimizerSpec.of(numeric["optimizer"]),
            schedule=ScheduleSpec(**schedule),
            precision=numeric["precision"],
            device=numeric["hardware"]["device"],
            threads_per_rank=numeric["hardware"]["threads_per_rank"],
            is_statistical=numeric["reproducibility"]["mode"] == "statistical",
            strategy=strategy,
            recompute_blocks=recompute_blocks,
        )

    @cached_property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The model's parameters by what updates them: the sections of the flat buffer."""
        return parameter_groups(self.model.parameters, self.model.blocks, self.optimizer, self.model.frozen)
