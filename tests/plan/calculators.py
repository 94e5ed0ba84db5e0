"""Five models in llmrun's plan and in three calculators that others publish.

The others' answers stand here as they were computed from their published formulas; ours are computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.plan import Plan, make_plan


@dataclass(frozen=True)
class Answer:
    """What one calculator says of one model; None where it does not say.

    FLOPs:  per token, forward and backward.     states_GB: weights, gradients, optimizer a device.
    total_GB: with activations and buffers.
    """

    N_total: int
    FLOPs: float | None
    states_GB: float
    total_GB: float


@dataclass(frozen=True)
class Compared:
    """One model on D devices, one sequence of L_ctx each, nothing recomputed."""

    preset: str
    L_ctx: int
    D: int
    cookbook: Answer
    megatron: Answer
    analysis: Answer


COMPARED = (
    Compared(
        "gpt2-small", 1024, 8,
        Answer(124_438_272, 8.54438e8, 1.22, 3.30),
        Answer(123_570_432, None, 0.927, 1.46),
        Answer(123_551_232, 8.54438e8, 0.927, 1.53),
    ),
    Compared(
        "gpt2-xl", 1024, 8,
        Answer(1_557_608_000, 1.02735e10, 12.3, 22.2),
        Answer(1_555_281_600, None, 11.7, 14.6),
        Answer(1_555_126_400, 1.02735e10, 11.7, 15.1),
    ),
    Compared(
        "llama1-7b", 2048, 64,
        Answer(7_120_486_400, 4.26624e10, 41.8, 73.4),
        Answer(6_738_415_616, None, 41.7, 49.7),
        Answer(5_164_503_040, 4.26624e10, 32.0, 41.9),
    ),
    Compared(
        "llama3-8b", 8192, 64,
        Answer(8_345_223_168, 4.98598e10, 49.9, 431),
        Answer(8_030_261_248, None, 49.7, 88.4),
        Answer(5_625_876_480, 4.98598e10, 34.8, 81.2),
    ),
    Compared(
        "gpt3-175b", 2048, 1024,
        Answer(174_604_234_752, 1.07637e12, 1050, 1330),
        Answer(174_568_476_672, None, 1050, 1132),
        Answer(174_566_105_088, 1.07637e12, 1050, 1149),
    ),
)  # fmt: skip


def plan_of(case: Compared, empty_config: Path) -> Plan:
    """The plan of a model by llmrun: one lane a rank, as the others have no lanes."""
    tokens = case.L_ctx * case.D
    settings = [
        f"model.preset={case.preset}",
        f"batch.μ_tok={case.L_ctx}",
        f"batch.GB_tok={tokens}",
        f"batch.D={case.D}",
        f"batch.V={case.D}",
        "hardware.accelerator=A100-80G-SXM",
    ]
    return make_plan(resolve(load_config(empty_config, settings), None, MachineFacts(gpus=0)))


def table_rows(empty_config: Path) -> Iterator[str]:
    """The comparison as rows of Markdown."""
    yield "| model | D | | llmrun | cookbook | Megatron-LM | llm-analysis |"
    yield "|---|---|---|---|---|---|---|"
    for case in COMPARED:
        plan = plan_of(case, empty_config)
        others = (case.cookbook, case.megatron, case.analysis)
        states = {"weights", "gradients", "optimizer", "bf16 weights"}
        ours = sum(part.bytes for part in plan.memory.parts if part.name in states) / 1e9
        yield _row(
            f"{case.preset}, L_ctx {case.L_ctx:,}",
            f"{case.D:,}",
            "N_params_total",
            f"{plan.parameters.N_params_total:,}",
            [f"{other.N_total:,}" for other in others],
        )
        yield _row(
            "",
            "",
            "FLOPs a token",
            f"{plan.flops.per_token:.5e}",
            ["-" if other.FLOPs is None else f"{other.FLOPs:.5e}" for other in others],
        )
        yield _row("", "", "states, GB", f"{ours:,.3g}", [f"{other.states_GB:,.3g}" for other in others])
        yield _row(
            "",
            "",
            "all memory, GB",
            _gigabytes(plan.memory.device_bytes / 1e9),
            [_gigabytes(other.total_GB) for other in others],
        )


def _row(model: str, D: str, what: str, ours: str, others: list[str]) -> str:
    """One row."""
    return f"| {' | '.join([model, D, what, ours, *others])} |"


def _gigabytes(amount: float) -> str:
    """Three digits, whole above 100."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
