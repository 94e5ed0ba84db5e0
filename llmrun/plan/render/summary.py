"""A plan on one screen of 80 columns."""

from collections.abc import Callable

from llmrun.plan.costs import Costs
from llmrun.plan.plan import Plan, fitting
from llmrun.plan.render.amounts import (
    UNKNOWN,
    show_count,
    show_FLOPs,
    show_hours,
    show_kWh,
    show_percent,
    show_real,
    show_tonnes,
    show_yuan,
)
from llmrun.plan.render.batch_diagram import batch_diagram, equation
from llmrun.plan.render.forecast import measured_basis
from llmrun.plan.render.language import Translate, english, padded, wrapped
from llmrun.plan.render.notes import note_text
from llmrun.plan.render.own_model import describe_own, flops_lines
from llmrun.text import format_bytes

COLUMNS = 80
INDENT = "  "
LABEL_WIDTH = 16
VALUE_WIDTH = 15


def summary(plan: Plan, translate: Translate = english) -> str:
    """The plan in about forty lines of at most 80 columns."""
    title = translate("plan of {name}", name=plan.config.name) + _preset(plan, translate)
    blocks = [
        [equation(plan.batch), *batch_diagram(plan.batch, translate)],
        _run(plan, translate),
        _model(plan, translate),
        _memory(plan, translate),
        _checkpoint(plan, translate),
        _costs(plan, translate),
    ]
    described = [f"{INDENT}{line}" for line in wrapped(describe(plan, translate), COLUMNS - len(INDENT))]
    texts = ["\n".join(f"{INDENT}{line}" for line in block) for block in blocks]
    return "\n\n".join(["\n".join([title, *described]), *texts])


def _preset(plan: Plan, translate: Translate) -> str:
    """The named preset, and whether its shape was changed."""
    if plan.preset is None:
        return ""
    from llmrun.config.presets import preset_table

    shape = preset_table()[plan.preset].model
    is_changed = any(getattr(plan.config.model, name) != value for name, value in shape.items())
    return translate(" ({preset}, changed)", preset=plan.preset) if is_changed else f" ({plan.preset})"


def describe(plan: Plan, translate: Translate = english) -> str:
    """The model in one line."""
    shape = plan.shape
    if shape is None:
        return describe_own(plan, translate)
    heads = translate("{n} heads", n=shape.n_heads)
    if shape.n_kv_heads != shape.n_heads:
        heads = translate("{n} heads ({kv} key-value)", n=shape.n_heads, kv=shape.n_kv_heads)
    return translate(
        "{n} layers of width {d:,}, {heads}, {mlp} {d_ff:,}, vocabulary {vocabulary:,}",
        n=shape.n_layers,
        d=shape.d_model,
        heads=heads,
        mlp=shape.mlp,
        d_ff=shape.d_ff,
        vocabulary=shape.vocab_size,
    )


def row(label: str, value: str, meaning: str = "") -> list[str]:
    """A label, a value and an explanation, wrapped to the screen."""
    lead = f"{padded(label, LABEL_WIDTH)}{padded(value, VALUE_WIDTH)} "
    room = COLUMNS - len(INDENT) - LABEL_WIDTH - VALUE_WIDTH - 1
    first, *rest = wrapped(meaning, room)
    below = " " * (LABEL_WIDTH + VALUE_WIDTH + 1)
    return [f"{lead}{first}".rstrip(), *(f"{below}{line}" for line in rest)]


def _run(plan: Plan, translate: Translate) -> list[str]:
    batch = plan.batch
    dropped = batch.T_tokens - batch.tokens_seen
    seen = (
        translate("{dropped:,} of T_tokens do not fill a step", dropped=dropped)
        if dropped
        else translate("all of T_tokens")
    )
    if plan.epochs is not None:
        seen += translate("; {epochs:.2f} epochs of the training split", epochs=plan.epochs)
    lanes = translate(
        "micro-batches per step, V = {V:,} lanes of {n:,}", V=batch.V, n=batch.micro_batches_per_lane
    )
    return [
        *row(translate("steps"), f"{batch.steps:,}", translate("T_tokens / GB_tok, rounded down")),
        *row(translate("tokens seen"), show_count(batch.tokens_seen), seen),
        *row(
            translate("warm-up"),
            translate("{n:,} steps", n=batch.warmup_steps),
            translate("of {n:,} tokens", n=plan.config.schedule.warmup_tokens),
        ),
        *row(
            translate("learning rate"),
            f"{plan.rates.peak:.3g}",
            translate(
                "peak; first step {first:.3g}, last step {last:.3g}",
                first=plan.rates.first,
                last=plan.rates.last,
            ),
        ),
        *row("M", f"{batch.M:,}", lanes),
    ]


def _model(plan: Plan, translate: Translate) -> list[str]:
    count, flops = plan.parameters, plan.flops
    if plan.shape is None or flops is None:
        return _own_model(plan, translate)
    head = (
        translate("head tied")
        if plan.shape.tie_embeddings
        else translate("{n} in the head", n=show_count(count.head).strip())
    )
    tables = translate("tables {n}", n=show_count(count.embedding))
    return [
        *row("N_params", show_count(count.N_params), f"{count.N_params:,}"),
        *row(
            "N_params_total", show_count(count.N_params_total), f"{count.N_params_total:,}: {tables}, {head}"
        ),
        *row("FLOPs", show_FLOPs(flops.exact), translate("every product, attention as full square (PaLM)")),
        *_muon(plan, translate),
        *row(
            "6·N_params·T",
            show_FLOPs(flops.six_NT),
            translate("{FLOPs} with N_params_total", FLOPs=show_FLOPs(flops.six_NT_total)),
        ),
    ]


def _own_model(plan: Plan, translate: Translate) -> list[str]:
    count = plan.parameters
    tables = translate("tables {n}", n=show_count(count.embedding))
    known = UNKNOWN if plan.FLOPs is None else show_FLOPs(plan.FLOPs)
    return [
        *row("N_params", show_count(count.N_params), f"{count.N_params:,}"),
        *row("N_params_total", show_count(count.N_params_total), f"{count.N_params_total:,}: {tables}"),
        *row("FLOPs", known, "" if plan.FLOPs else flops_lines(plan, translate)[0]),
    ]


def _muon(plan: Plan, translate: Translate) -> list[str]:
    """Muon's parameters and FLOPs; nothing if AdamW updates everything."""
    if plan.muon is None:
        return []
    FLOPs = plan.muon.FLOPs * plan.batch.steps
    meaning = translate(
        "{share} more, for {matrices:,} matrices of {n} parameters",
        share=UNKNOWN if plan.FLOPs is None else show_percent(FLOPs / plan.FLOPs),
        matrices=plan.muon.matrices,
        n=show_count(plan.muon.N_params).strip(),
    )
    return row("Muon", show_FLOPs(FLOPs), meaning)


def _memory(plan: Plan, translate: Translate) -> list[str]:
    """Memory of one rank, its four largest parts, and whether it fits."""
    memory = plan.memory
    parts = sorted(memory.parts, key=lambda part: -part.bytes)
    named = ", ".join(f"{translate(part.name)} {format_bytes(part.bytes)}" for part in parts[:4])
    total = format_bytes(memory.state_bytes)
    if memory.device_bytes is None:
        total, named = UNKNOWN, translate("{bytes} without activations: {parts}", bytes=total, parts=named)
    lines = row(translate("memory per rank"), total, named)
    if plan.setting.device == "cpu":
        lines += row(
            "", "", translate("in use; a CPU process also keeps freed memory, up to half as much again")
        )
    found = fitting(plan)
    if found is None:
        return lines
    assert plan.accelerator is not None
    name, has = plan.accelerator.name, format_bytes(found.has)
    verdict = (
        translate("fits the {has} of {name}", has=has, name=name)
        if found.fits
        else translate("does not fit the {has} of {name}", has=has, name=name)
    )
    largest = found.largest_mu_tok
    shown = (
        translate("not even one sequence fits")
        if largest is None
        else translate("largest μ_tok at this V: {n:,}", n=largest)
    )
    lines += row("", "", f"{verdict}; {shown}")
    if not found.fits:
        for remedy in [remedy for remedy in found.remedies if remedy.fits][:2]:
            bits = translate("same bits") if remedy.same_bits else translate("other bits")
            lines += row("", "", f"{' '.join(remedy.settings)}: {format_bytes(remedy.bytes)}, {bits}")
        if found.most_layers is not None:
            lines += row("", "", translate("at most {n:,} layers of this width fit", n=found.most_layers))
    return lines


def _checkpoint(plan: Plan, translate: Translate) -> list[str]:
    size, kept, saving = plan.checkpoint, plan.retention, plan.saving
    hardware = plan.config.hardware
    each = format_bytes(size.per_rank)
    if size.N_muon:
        written = translate(
            "12 bytes per parameter, 8 for one of Muon; {per_rank} from each rank on average", per_rank=each
        )
    else:
        written = translate("12 bytes per parameter, {per_rank} from each rank", per_rank=each)
    lines = row(translate("checkpoint"), format_bytes(size.total), written)
    lines += row(
        translate("on disk"),
        format_bytes(kept.count * size.total),
        translate(
            "at most {n:,}; each takes {time} at {GBps:g} GB/s",
            n=kept.count,
            time=show_hours(saving.delta_s / 3600, translate),
            GBps=hardware.checkpoint_GBps,
        ),
    )
    lines += row(
        translate("save every"),
        show_hours(saving.daly.interval_s / 3600, translate),
        translate(
            "Daly: goodput {share}, MTBF of the run {time}",
            share=show_percent(saving.daly.goodput),
            time=show_hours(saving.MTBF_s / 3600, translate),
        ),
    )
    configured = saving.configured
    if configured is not None:
        lines += row(
            "",
            "",
            translate(
                "as configured, {time}: goodput {share}",
                time=show_hours(configured.interval_s / 3600, translate),
                share=show_percent(configured.goodput),
            ),
        )
    return lines


def _costs(plan: Plan, translate: Translate) -> list[str]:
    """Time, energy, CO2, money; a dash and the reason if unknown."""
    costs, hardware = plan.costs, plan.config.hardware
    price = hardware.yuan_per_GPU_hour
    power = translate("measured") if hardware.watts_per_device else "TDP"
    watts = f"{power} {costs.watts:g} W" if costs.watts is not None else ""
    rows: dict[str, tuple[str, Callable[[float], str], str]] = {
        "time_hours": (
            translate("time"),
            lambda hours: show_hours(hours, translate),
            _time_basis(plan, translate),
        ),
        "GPU_hours": (translate("GPU-hours"), show_real, _interrupted(plan, translate)),
        "energy_kWh": (
            translate("energy"),
            show_kWh,
            f"{watts} · D · {translate('time')} · PUE {hardware.PUE:g}",
        ),
        "tCO2": ("CO2", show_tonnes, translate("at {n:g} kg/kWh", n=hardware.kgCO2_per_kWh)),
        "yuan_energy": (
            translate("price of energy"),
            show_yuan,
            translate("at {n:g} ¥/kWh", n=hardware.yuan_per_kWh),
        ),
        "yuan_GPU": (
            translate("price of GPUs"),
            show_yuan,
            translate("at {n:g} ¥/GPU-hour", n=price) if price is not None else "",
        ),
    }
    return [
        line
        for name, (label, show, meaning) in rows.items()
        for line in _cost_row(costs, name, label, show, meaning, translate)
    ]


def _time_basis(plan: Plan, translate: Translate) -> str:
    """What the time is based on, and what it leaves out."""
    return translate("{assumed}; without evaluation and saving", assumed=_assumed(plan, translate))


def _assumed(plan: Plan, translate: Translate) -> str:
    if plan.measured is not None:
        return measured_basis(plan.measured, translate)
    name = plan.accelerator.name if plan.accelerator else ""
    return translate(
        "on {D:,} {name} at an assumed MFU of {mfu:g}",
        D=plan.batch.D,
        name=name,
        mfu=plan.config.hardware.assumed_mfu,
    )


def _interrupted(plan: Plan, translate: Translate) -> str:
    """The time with saves and interruptions."""
    saving = plan.saving
    if saving.wall_hours is None or saving.interruptions is None:
        return translate("D · time; too many interruptions to ever finish")
    return translate(
        "D · time; {time} with {n} interruptions",
        time=show_hours(saving.wall_hours, translate),
        n=show_real(saving.interruptions),
    )


def _cost_row(
    costs: Costs, name: str, label: str, show: Callable[[float], str], meaning: str, translate: Translate
) -> list[str]:
    """One cost, or a dash and the reason if it is unknown."""
    value: float | None = getattr(costs, name)
    if value is not None:
        return row(label, show(value), meaning)
    reason = costs.unknown.get(name)
    return row(label, UNKNOWN, note_text(reason, translate) if reason else "")
