"""What decides the bits of a run, read from the numeric fields that the fingerprint covers.

`TrainingSpec.of` takes the preimage of the fingerprint's part `config`, so training computes with exactly the values
that were digested.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from llmrun.core.batch import Batch
from llmrun.core.model.shape import ModelShape


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW's settings.  implementation: `fused` | `foreach`; the two give other bits."""

    name: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    grad_clip: float | None
    implementation: str


@dataclass(frozen=True)
class ScheduleSpec:
    """The learning rate's course, in tokens.  decay_tokens: only of `constant`."""

    name: Literal["cosine", "linear", "constant"]
    warmup_tokens: int
    final_lr_fraction: float
    decay_tokens: int | None


@dataclass(frozen=True)
class TrainingSpec:
    """One run as the training step sees it.

    device:        `cpu` | `cuda`.
    is_statistical: sums are left to torch, and no determinism switch is set.
    strategy, recompute_blocks: operational; they change who holds what, never a bit.
    """

    seed: int
    batch: Batch
    shape: ModelShape
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

        numeric: nested numeric fields with ASCII names, nothing left open.
        """
        batch, schedule = numeric["batch"], numeric["schedule"]
        optimizer = dict(numeric["optimizer"])
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
            shape=ModelShape.of(numeric["model"], batch["L_ctx"]),
            optimizer=OptimizerSpec(**optimizer | {"betas": tuple(optimizer["betas"])}),
            schedule=ScheduleSpec(**schedule),
            precision=numeric["precision"],
            device=numeric["hardware"]["device"],
            threads_per_rank=numeric["hardware"]["threads_per_rank"],
            is_statistical=numeric["reproducibility"]["mode"] == "statistical",
            strategy=strategy,
            recompute_blocks=recompute_blocks,
        )
