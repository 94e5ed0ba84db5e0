"""Every formula of a plan with its numbers and its source."""

from collections.abc import Callable, Sequence

from llmrun.core.model.flops import (
    attention_flops_per_token,
    head_flops_per_token,
    projection_flops_per_token,
)
from llmrun.plan.conventions import (
    CONVENTIONS,
    USED,
    activation_bytes_per_block,
    block_input_bytes,
    petaflop_days,
    tokens_per_parameter,
    zero_bytes,
)
from llmrun.plan.degrees import Degree, degree_table
from llmrun.plan.interruptions import bytes_per_day
from llmrun.plan.memory_parts import MemoryPart
from llmrun.plan.note import Note
from llmrun.plan.plan import Plan, fitting
from llmrun.plan.render.amounts import (
    UNKNOWN,
    show_FLOPs,
    show_hours,
    show_kWh,
    show_percent,
    show_real,
    show_tonnes,
    show_yuan,
)
from llmrun.plan.render.forecast import measured_basis
from llmrun.plan.render.language import Translate, english, padded, width
from llmrun.plan.render.notes import note_text
from llmrun.plan.render.own_model import flops_lines, memory_formulas, parameter_lines
from llmrun.text import format_bytes


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns, two spaces apart; the last column is left-aligned text."""
    cells = [heading, *rows]
    widths = [max(width(line[column]) for line in cells) for column in range(len(heading) - 1)]
    return [
        "  ".join(
            [
                *(" " * (columns - width(cell)) + cell for cell, columns in zip(line, widths, strict=False)),
                line[-1],
            ]
        ).rstrip()
        for line in cells
    ]


def degree_lines(plan: Plan, translate: Translate) -> list[str]:
    """One row for each D, with that of the plan marked."""
    heading = [
        "D",
        "A",
        translate("waiting"),
        translate("sums sent"),
        translate("gradient buffers"),
        translate("of each rank"),
        "",
    ]
    degrees = degree_table(plan.batch)
    lines = table(heading, [_degree_cells(row, plan, translate) for row in degrees])
    if any(row.A is None for row in degrees):
        lines.append(
            translate(
                "a D that does not divide M = {M:,} takes `--set batch.uneven=allow`, the same bits",
                M=plan.batch.M,
            )
        )
    return lines


def _degree_cells(row: Degree, plan: Plan, translate: Translate) -> list[str]:
    buffer_bytes = 4 * plan.parameters.N_params_total
    warning = "" if row.cheap else translate("uneven")
    if row.D == plan.batch.D:
        warning = " ".join(filter(None, ["<--", warning]))
    return [
        f"{row.D:,}",
        f"{row.A:,}" if row.A is not None and row.cheap else translate("at most {n:,}", n=row.A_largest),
        f"{row.idle_share:.1%}",
        UNKNOWN if row.sums_sent is None else f"{row.sums_sent:.2f}",
        UNKNOWN if row.buffers is None else f"{row.buffers}",
        UNKNOWN if row.buffers is None else format_bytes(row.buffers * buffer_bytes),
        warning,
    ]


def goodput_lines(plan: Plan, translate: Translate) -> list[str]:
    """Goodput at several intervals, among them the recommended and the configured ones."""
    saving = plan.saving
    named = {saving.young: "Young", saving.daly: "Daly"}
    if saving.configured is not None:
        named[saving.configured] = translate("as configured")
    shown = sorted({*saving.rows, *named}, key=lambda row: row.interval_s)
    rows = [
        [
            show_hours(row.interval_s / 3600, translate),
            show_percent(row.goodput),
            format_bytes(round(bytes_per_day(plan.checkpoint.total, row.interval_s))),
            named.get(row, ""),
        ]
        for row in shown
    ]
    return table([translate("interval"), "goodput", translate("written per day"), ""], rows)


NAME_WIDTH = 20


def _part_line(part: MemoryPart, translate: Translate) -> str:
    """Name, bytes, formula and its explanation."""
    formula = f"{part.formula} ({translate(part.means)})" if part.formula else translate(part.means)
    return f"{padded(translate(part.name), NAME_WIDTH)}{format_bytes(part.bytes):>9}   {formula}"


def explain_memory(plan: Plan, translate: Translate) -> list[str]:
    """Each part with its formula, then the formulas of papers."""
    memory = plan.memory
    return [
        *(_part_line(part, translate) for part in memory.parts),
        f"{padded(translate('together'), NAME_WIDTH)}{format_bytes(memory.state_bytes):>9}   = {memory.state_bytes:,} bytes",
        *([] if plan.shape is not None else [translate("activations are unknown for a model of your own")]),
        _part_line(memory.checkpoint_buffer, translate),
        translate("for comparison, formulas of papers:"),
        *(f"  {line}" for line in _memory_formulas_of_papers(plan, translate)),
    ]


def _memory_formulas_of_papers(plan: Plan, translate: Translate) -> list[str]:
    shape, batch, N = plan.shape, plan.batch, plan.parameters.N_params_total
    if shape is None:
        return memory_formulas(plan, translate)
    states = ", ".join(f"ZeRO-{stage} {format_bytes(zero_bytes(N, batch.D, stage))}" for stage in range(4))
    return [
        translate(
            "activations of a GPT block without a fused kernel = μ_tok·(34·d_model + 5·n_heads·L_ctx) = {bytes} "
            "(Korthikanti et al. 2022, arXiv 2205.05198, eq. 1)",
            bytes=format_bytes(activation_bytes_per_block(shape, batch.mu_tok)),
        ),
        translate(
            "inputs of all blocks in bf16, under full recomputation = 2·μ_tok·n_layers·d_model = {bytes}",
            bytes=format_bytes(block_input_bytes(shape, batch.mu_tok)),
        ),
        translate(
            "weights, gradients and optimizer in mixed precision: {states} (Rajbhandari et al. 2020, arXiv 1910.02054)",
            states=states,
        ),
    ]


def explain_fit(plan: Plan, translate: Translate) -> list[str]:
    """Every remedy with its memory and its price."""
    found = fitting(plan)
    if found is None and plan.accelerator is not None:
        return []
    if found is None:
        return [note_text(Note("not_set", {"key": "hardware.accelerator"}), translate)]
    assert plan.accelerator is not None
    largest = UNKNOWN if found.largest_mu_tok is None else f"{found.largest_mu_tok:,}"
    lines = [
        translate(
            "{name} has {has}, a rank needs {needs}",
            name=plan.accelerator.name,
            has=format_bytes(found.has),
            needs=format_bytes(found.needs),
        ),
        translate("largest μ_tok that fits, such that V divides M: {n}", n=largest),
    ]
    for remedy in found.remedies:
        bits = translate("same bits") if remedy.same_bits else translate("other bits")
        verdict = translate("fits") if remedy.fits else translate("does not fit")
        price = "; ".join(note_text(each, translate) for each in remedy.price)
        lines.append(
            f"--set {' --set '.join(remedy.settings)}: {format_bytes(remedy.bytes)}, {verdict}, {bits}; {price}"
        )
    if found.most_layers is not None:
        lines.append(
            translate(
                "with all remedies together at most {n:,} layers of this width fit: llmrun shards data, not models",
                n=found.most_layers,
            )
        )
    return lines


def explain_muon(plan: Plan, translate: Translate) -> list[str]:
    """FLOPs of the orthogonalisations, and how ranks share them; empty if AdamW updates everything."""
    work, settings = plan.muon, plan.config.optimizer.muon
    if work is None:
        return []
    steps, D = plan.batch.steps, plan.batch.D
    return [
        translate(
            "a matrix of m × n, m <= n: ns_steps·(4·n·m² + 2·m³) FLOPs, ns_steps = {ns_steps} (Keller Jordan 2024)",
            ns_steps=settings.ns_steps,
        ),
        translate(
            "{matrices:,} matrices: {each} per step, {total} in {steps:,} steps, in bf16; they do not grow with GB_tok",
            matrices=work.matrices,
            each=show_FLOPs(work.FLOPs),
            total=show_FLOPs(work.FLOPs * steps),
            steps=steps,
        ),
        translate(
            "each matrix has one owner; the busiest of D = {D:,} ranks has {share} of the work (1/D = {even})",
            D=D,
            share=show_percent(work.busiest_FLOPs / work.FLOPs),
            even=show_percent(1 / D),
        ),
        translate(
            "peak learning rate {lr:.3g}, of AdamW's parameters {other:.3g}",
            lr=settings.lr,
            other=plan.config.optimizer.lr,
        ),
    ]


def explain_checkpoint(plan: Plan, translate: Translate) -> list[str]:
    """What is written, the textbook's size, and what stays on disk."""
    size, kept = plan.checkpoint, plan.retention
    parts = ", ".join(f"{name} {format_bytes(part)}" for name, part in size.parts.items())
    written, textbook = _checkpoint_sizes(plan, translate)
    return [
        written,
        translate("by part: {parts}; headers and JSON are less than 1 % more", parts=parts),
        textbook,
        translate(
            "on disk: keep_last {newest:,} + best {best} + permanent {permanent:,} + the one being written = {n:,}, {total}",
            newest=kept.newest,
            best=kept.best,
            permanent=kept.permanent,
            n=kept.count,
            total=format_bytes(kept.count * size.total),
        ),
    ]


def _checkpoint_sizes(plan: Plan, translate: Translate) -> tuple[str, str]:
    """What llmrun writes, and the textbook's size."""
    size, N, D = plan.checkpoint, plan.parameters.N_params_total, plan.batch.D
    ours = {"total": size.total, "shown": format_bytes(size.total), "per_rank": format_bytes(size.per_rank)}
    theirs = {
        "total": size.textbook_total,
        "shown": format_bytes(size.textbook_total),
        "per_rank": format_bytes(size.textbook_per_rank),
    }
    if size.N_muon:
        return translate(
            "llmrun writes fp32 weights and two fp32 moments, one for the {N_muon:,} parameters of Muon: "
            "12·{N:,} - 4·{N_muon:,} = {total:,} bytes = {shown}; {per_rank} from each of D = {D:,} on average",
            N=N,
            N_muon=size.N_muon,
            D=D,
            **ours,
        ), translate(
            "textbook, bf16 weights and fp32 moments: N·10 - N_muon·4 = {total:,} bytes = {shown}; {per_rank} from each of D = {D:,}",
            D=D,
            **theirs,
        )
    return translate(
        "llmrun writes fp32 weights and two fp32 moments: 12·N_params_total = 12·{N:,} = {total:,} bytes = {shown}; "
        "{per_rank} from each of D = {D:,}",
        N=N,
        D=D,
        **ours,
    ), translate(
        "textbook, bf16 weights and two fp32 moments: N·2 + N·8 = {total:,} bytes = {shown}; {per_rank} from each of D = {D:,}",
        D=D,
        **theirs,
    )


def explain_saving(plan: Plan, translate: Translate) -> list[str]:
    """Young, Daly, goodput and expected interruptions."""
    saving, hardware, D = plan.saving, plan.config.hardware, plan.batch.D
    lines = [
        translate(
            "δ = {bytes} / {GBps:g} GB/s = {delta} to write one; llmrun writes in the background, so training waits less",
            bytes=format_bytes(plan.checkpoint.total),
            GBps=hardware.checkpoint_GBps,
            delta=show_hours(saving.delta_s / 3600, translate),
        ),
        translate(
            "M = device_MTBF_hours / D = {device:,.0f} / {D:,} = {M} between interruptions "
            "(Llama 3 405B: 54 days · 16,384 / 419 = 50,677 hours, arXiv 2407.21783, section 3.3.4)",
            device=hardware.device_MTBF_hours,
            D=D,
            M=show_hours(saving.MTBF_s / 3600, translate),
        ),
        translate(
            "Young = sqrt(2·δ·M) = {young} (Young 1974); Daly = Young·(1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ = {daly} (Daly 2006, eq. 37)",
            young=show_hours(saving.young.interval_s / 3600, translate),
            daly=show_hours(saving.daly.interval_s / 3600, translate),
        ),
        translate(
            "goodput = τ / (M·e^(R/M)·(e^((τ+δ)/M) - 1)), R = {R} until training continues (Daly 2006, eq. 20):",
            R=show_hours(saving.restart_s / 3600, translate),
        ),
        *(f"  {line}" for line in goodput_lines(plan, translate)),
    ]
    if saving.wall_hours is not None and saving.interruptions is not None:
        planned = saving.configured or saving.daly
        lines.append(
            translate(
                "with interruptions: time / goodput {share} = {time}, / M = {n} interruptions",
                share=show_percent(planned.goodput),
                time=show_hours(saving.wall_hours, translate),
                n=show_real(saving.interruptions),
            )
        )
    return lines


def explanation(plan: Plan, translate: Translate = english) -> str:
    """All formulas, in the order in which they build on each other."""
    blocks: dict[str, Callable[[Plan, Translate], list[str]]] = {
        translate("batch"): _batch,
        translate("what each D costs (the same bits for all)"): degree_lines,
        translate("parameters"): _parameters,
        "FLOPs": _flops,
        "Muon": explain_muon,
        translate("memory per rank"): explain_memory,
        translate("remedies"): explain_fit,
        translate("checkpoint"): explain_checkpoint,
        translate("interval between checkpoints"): explain_saving,
        translate("time, energy, CO2, money"): _costs,
    }
    shown = {title: block(plan, translate) for title, block in blocks.items()}
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in shown.items() if lines
    )


def _batch(plan: Plan, translate: Translate) -> list[str]:
    batch = plan.batch
    smallest, largest = plan.A_per_rank
    each = translate("micro-batches per step")
    ranks = (
        f"A = M / D = {batch.M:,} / {batch.D:,} = {batch.A:,}"
        if batch.A is not None
        else translate(
            "A: D = {D:,} does not divide M = {M:,}; ranks compute {smallest:,} to {largest:,} micro-batches",
            D=batch.D,
            M=batch.M,
            smallest=smallest,
            largest=largest,
        )
    )
    warmup, warmup_tokens = plan.config.schedule.warmup_tokens, batch.warmup_steps * batch.gb_tok
    return [
        f"M = GB_tok / μ_tok = {batch.gb_tok:,} / {batch.mu_tok:,} = {batch.M:,} {each}",
        ranks,
        translate(
            "sequences per micro-batch = μ_tok / L_ctx = {mu:,} / {L:,} = {n:,}",
            mu=batch.mu_tok,
            L=batch.L_ctx,
            n=batch.sequences,
        ),
        f"steps = floor(T_tokens / GB_tok) = floor({batch.T_tokens:,} / {batch.gb_tok:,}) = {batch.steps:,}",
        f"tokens_seen = steps · GB_tok = {batch.tokens_seen:,}",
        translate(
            "warm-up = ceil(warmup_tokens / GB_tok) = ceil({warmup:,} / {gb:,}) = {steps:,} steps, {tokens:,} tokens",
            warmup=warmup,
            gb=batch.gb_tok,
            steps=batch.warmup_steps,
            tokens=warmup_tokens,
        ),
        translate("lanes: V = {V:,}, each of M / V = {n:,}", V=batch.V, n=batch.micro_batches_per_lane),
    ]


def _parameters(plan: Plan, translate: Translate) -> list[str]:
    count, shape = plan.parameters, plan.shape
    if shape is None:
        return parameter_lines(plan, translate)
    norms = count.N_params - shape.n_layers * count.block
    tied = translate(" (shares the token table)") if shape.tie_embeddings else ""
    lines = [
        translate("one layer = {n:,}", n=count.block),
        translate(
            "N_params = n_layers · layer + norms = {layers:,} · {block:,} + {norms:,} = {N:,}",
            layers=shape.n_layers,
            block=count.block,
            norms=norms,
            N=count.N_params,
        ),
        translate("tables = {tables:,}; output head = {head:,}", tables=count.embedding, head=count.head)
        + tied,
        f"N_params_total = {count.N_params:,} + {count.embedding:,} + {count.head:,} = {count.N_params_total:,}",
        translate(
            "tokens per parameter = {ratio} (about 20 is compute-optimal: Hoffmann et al. 2022, arXiv 2203.15556)",
            ratio=show_real(tokens_per_parameter(plan.batch.tokens_seen, count.N_params_total)),
        ),
    ]
    if shape.beyond is not None:
        lines.append(
            translate(
                "{preset} is for planning only: {what}",
                preset=plan.preset,
                what=shape.beyond.described(),
            )
        )
    return lines


def _flops(plan: Plan, translate: Translate) -> list[str]:
    """The count that llmrun uses, product by product, then those of other conventions."""
    shape, flops, batch, count = plan.shape, plan.flops, plan.batch, plan.parameters
    if shape is None or flops is None:
        return flops_lines(plan, translate)
    projections, square = projection_flops_per_token(shape), attention_flops_per_token(shape)
    head = head_flops_per_token(shape)
    lines = [
        translate(
            "a product [m,k]·[k,n] is 2·m·n·k FLOPs; forward and backward are 3 times forward; per token:"
        ),
        translate("projections and MLP of a layer = {n:,}", n=projections),
        translate(
            "attention of a layer = 4·L_ctx·n_heads·head_dim = 4·{L:,}·{heads}·{dim} = {n:,} (full square)",
            L=shape.L_ctx,
            heads=shape.n_heads,
            dim=shape.head_dim,
            n=square,
        ),
        translate(
            "output head = 2·d_model·vocab_size = 2·{d:,}·{vocabulary:,} = {n:,}",
            d=shape.d_model,
            vocabulary=shape.vocab_size,
            n=head,
        ),
        translate(
            "FLOPs per token = 3·({layers}·({projections:,} + {square:,}) + {head:,}) = {n:,}",
            layers=shape.n_layers,
            projections=projections,
            square=square,
            head=head,
            n=flops.per_token,
        ),
        (
            f"FLOPs = {flops.per_token:,} · tokens_seen {batch.tokens_seen:,} = {show_FLOPs(flops.exact)}"
            f" = {show_real(petaflop_days(flops.exact))} PF-days"
        ),
        translate(
            "conventions, over tokens_seen (llmrun uses {used}, also for the MFU of a run):", used=USED
        ),
    ]
    for each in CONVENTIONS:
        total = each.per_token(shape, count) * batch.tokens_seen
        kind = "HFU" if each.of_hardware else ""
        share = f"{total / flops.exact:.3f}"
        lines.append(
            f"  {each.name:<20}{show_FLOPs(total):>10}{share:>7} {kind:<4} {each.formula} ({translate(each.source)})"
        )
    if flops.recomputed:
        by_hardware = show_FLOPs(flops.exact + flops.recomputed)
        lines.append(
            translate(
                "with activation checkpointing the hardware computes {total} (HFU); MFU does not count recomputation",
                total=by_hardware,
            )
        )
    return lines


def _costs(plan: Plan, translate: Translate) -> list[str]:
    """Each cost with its formula, or the reason why it is unknown."""
    costs, D = plan.costs, plan.batch.D
    if costs.time_hours is None or costs.GPU_hours is None:
        return [f"{UNKNOWN} {note_text(costs.unknown['time_hours'], translate)}"]
    shown = (
        f"{translate('GPU-hours')} = D · time = {D:,}·{costs.time_hours:.4g} = {show_real(costs.GPU_hours)}"
    )
    return [*_time(plan, translate), shown, *_energy(plan, translate), *_rent(plan, translate)]


def _time(plan: Plan, translate: Translate) -> list[str]:
    """The time, from a measured throughput or from the peak and an assumed MFU."""
    costs, hardware, D = plan.costs, plan.config.hardware, plan.batch.D
    assert costs.time_hours is not None
    shown = f"{costs.time_hours:.4g} h = {show_hours(costs.time_hours, translate)}"
    if plan.measured is not None:
        rate = show_real(plan.measured.tokens_per_second)
        return [
            translate(
                "time = tokens_seen / measured throughput = {tokens:,} / {rate} per second = {time} ({basis})",
                tokens=plan.batch.tokens_seen,
                rate=rate,
                time=shown,
                basis=measured_basis(plan.measured, translate),
            )
        ]
    assert plan.accelerator is not None
    assert plan.flops is not None
    peak, precision = plan.accelerator.peak_FLOPs(plan.config.precision), plan.config.precision
    idle = f"·(1 - {plan.lanes.idle_share:.3f})" if plan.lanes.idle_share else ""
    lines = [
        f"{plan.accelerator.name}: {peak:.4g} FLOP/s dense {precision} ({plan.accelerator.source})",
        (
            f"{translate('time')} = FLOPs / (D · peak · MFU) = {plan.flops.exact:.4g} / ({D:,}·{peak:.4g}·"
            f"{hardware.assumed_mfu:g}{idle}) = {shown}"
        ),
    ]
    if plan.flops.recomputed:
        hfu = hardware.assumed_mfu * (1 + plan.flops.recomputed / plan.flops.exact)
        lines.append(
            translate(
                "with recomputation an MFU of {mfu:g} is an HFU of {hfu:.3g}",
                mfu=hardware.assumed_mfu,
                hfu=hfu,
            )
        )
    return lines


def _energy(plan: Plan, translate: Translate) -> list[str]:
    costs, hardware = plan.costs, plan.config.hardware
    if costs.energy_kWh is None or costs.yuan_energy is None or costs.tCO2 is None:
        return [f"{translate('energy')} {UNKNOWN} {note_text(costs.unknown['energy_kWh'], translate)}"]
    assert costs.GPU_hours is not None
    energy = show_kWh(costs.energy_kWh)
    power = translate("measured") if hardware.watts_per_device else "TDP"
    return [
        (
            f"{translate('energy')} = {power} · {translate('GPU-hours')} · PUE = {costs.watts:g} W · {show_real(costs.GPU_hours)}"
            f" · {hardware.PUE:g} = {energy}"
        ),
        f"CO2 = {energy} · {hardware.kgCO2_per_kWh:g} kg/kWh = {show_tonnes(costs.tCO2)}",
        f"{translate('price of energy')} = {energy} · {hardware.yuan_per_kWh:g} ¥/kWh = {show_yuan(costs.yuan_energy)}",
    ]


def _rent(plan: Plan, translate: Translate) -> list[str]:
    costs, label = plan.costs, translate("price of GPUs")
    if costs.yuan_GPU is None or costs.GPU_hours is None:
        return [f"{label} {UNKNOWN} {note_text(costs.unknown['yuan_GPU'], translate)}"]
    per_hour = plan.config.hardware.yuan_per_GPU_hour
    shown = f"{show_real(costs.GPU_hours)} · {per_hour:g} ¥/GPU-hour = {show_yuan(costs.yuan_GPU)}"
    return [
        f"{label} = {shown}",
        translate("¥/kWh and ¥/GPU-hour are alternative prices and never added: rent includes energy"),
    ]
