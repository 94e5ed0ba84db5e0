"""A plan on one screen."""

from collections.abc import Callable

from llmrun.config.shape import ModelShape
from llmrun.plan.amounts import (
    UNKNOWN,
    show_bytes,
    show_count,
    show_FLOPs,
    show_hours,
    show_kWh,
    show_real,
    show_yuan,
)
from llmrun.plan.batch_diagram import batch_diagram, equation
from llmrun.plan.plan import Plan

LABEL_WIDTH = 18
VALUE_WIDTH = 18


def summary(plan: Plan) -> str:
    """The plan in words and numbers, about forty lines."""
    blocks = [
        [f"plan of {plan.config.name}: {describe(plan.shape)}"],
        [equation(plan.batch), "", *batch_diagram(plan.batch)],
        _run(plan),
        _model(plan),
        _memory(plan),
        _costs(plan),
    ]
    return "\n\n".join(
        "\n".join(f"  {line}".rstrip() if index else line for line in block)
        for index, block in enumerate(blocks)
    )


def describe(shape: ModelShape) -> str:
    """The model's shape in one line."""
    heads = f"{shape.n_heads} heads"
    if shape.n_kv_heads != shape.n_heads:
        heads += f" over {shape.n_kv_heads} key-value heads"
    return f"{shape.n_layers} blocks of width {shape.d_model:,}, {heads}, {shape.mlp} {shape.d_ff:,}, vocabulary of {shape.vocab_size:,}"


def row(label: str, value: str, remark: str = "") -> str:
    """Label, value, and what it means."""
    return f"{label:<{LABEL_WIDTH}}{value:<{VALUE_WIDTH}}{remark}".rstrip()


def _run(plan: Plan) -> list[str]:
    """Steps, tokens, warm-up."""
    batch = plan.batch
    dropped = batch.T_tokens - batch.tokens_seen
    seen = "all of T_tokens" if not dropped else f"{dropped:,} of T_tokens do not fill a step"
    epochs = f"; {plan.epochs:.2f} epochs of the training split" if plan.epochs is not None else ""
    return [
        row("steps", f"{batch.steps:,}", "T_tokens / GB_tok, rounded down"),
        row("tokens seen", f"{batch.tokens_seen:,}", f"{seen}{epochs}"),
        row("warm-up", f"{batch.warmup_steps:,} steps", f"of {plan.config.schedule.warmup_tokens:,} tokens"),
        row(
            "M",
            f"{batch.M:,}",
            f"micro-batches a step in V = {batch.V:,} lanes of {batch.micro_batches_per_lane:,}",
        ),
    ]


def _model(plan: Plan) -> list[str]:
    """Parameters, FLOPs, checkpoint."""
    count, flops, size = plan.parameters, plan.flops, plan.checkpoint
    head = (
        "head shares the token table"
        if plan.shape.tie_embeddings
        else f"{show_count(count.head)} in the head"
    )
    return [
        row("N_params", f"{count.N_params:,}", "blocks and final norm"),
        row(
            "N_params_total",
            f"{count.N_params_total:,}",
            f"with {show_count(count.embedding)} in tables; {head}",
        ),
        row("FLOPs", show_FLOPs(flops.exact), "every matrix product, attention as full square (PaLM)"),
        row(
            "6·N_params·T", show_FLOPs(flops.six_NT), f"{show_FLOPs(flops.six_NT_total)} with N_params_total"
        ),
        row(
            "checkpoint",
            show_bytes(size.total),
            f"12 bytes a parameter; {show_bytes(size.per_rank)} from each of D = {plan.batch.D:,}",
        ),
    ]


def _memory(plan: Plan) -> list[str]:
    """Memory of one rank, largest parts first."""
    memory = plan.memory
    parts = sorted(memory.parts, key=lambda part: -part.bytes)
    named = [f"{part.name} {show_bytes(part.bytes)}" for part in parts]
    lines = [row("memory per rank", show_bytes(memory.device_bytes), ", ".join(named[:3]))]
    lines += [row("", "", ", ".join(named[start : start + 3])) for start in range(3, len(named), 3)]
    lines.append(
        row(
            "",
            "",
            f"in the host, {memory.checkpoint_buffer.name} {show_bytes(memory.checkpoint_buffer.bytes)}",
        )
    )
    if plan.accelerator:
        lines.append(row("", "", _fit(plan)))
    return lines


def _fit(plan: Plan) -> str:
    """Whether it fits the accelerator."""
    assert plan.accelerator is not None
    has = plan.accelerator.memory_bytes
    verdict = "fits" if plan.memory.device_bytes <= has else "does not fit"
    return f"{verdict} the {show_bytes(has)} of {plan.accelerator.name}"


def _costs(plan: Plan) -> list[str]:
    """Time, energy, money; a dash and the reason where unknown."""
    costs, hardware = plan.costs, plan.config.hardware
    name = plan.accelerator.name if plan.accelerator else ""
    assumed = f"on {plan.batch.D:,} {name} at an assumed MFU of {hardware.assumed_mfu:g}"
    price = hardware.yuan_per_GPU_hour
    return [
        _cost_row("time", costs.time_hours, show_hours, assumed, costs.unknown.get("time_hours")),
        _cost_row("GPU-hours", costs.GPU_hours, show_real, "D · time", costs.unknown.get("GPU_hours")),
        _cost_row(
            "energy",
            costs.energy_kWh,
            show_kWh,
            f"TDP · D · time · PUE {hardware.PUE:g}",
            costs.unknown.get("energy_kWh"),
        ),
        _cost_row(
            "price of energy",
            costs.yuan_energy,
            show_yuan,
            f"at {hardware.yuan_per_kWh:g} ¥/kWh",
            costs.unknown.get("yuan_energy"),
        ),
        _cost_row(
            "price of GPUs",
            costs.yuan_GPU,
            show_yuan,
            f"at {price:g} ¥/GPU-hour" if price is not None else "",
            costs.unknown.get("yuan_GPU"),
        ),
    ]


def _cost_row(
    label: str, value: float | None, show: Callable[[float], str], remark: str, why_unknown: str | None
) -> str:
    """One cost, or a dash and why it is unknown."""
    return row(label, UNKNOWN, why_unknown or "") if value is None else row(label, show(value), remark)
