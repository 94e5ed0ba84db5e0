"""Every formula of a plan with its numbers put in, and where it comes from."""

from collections.abc import Callable

from llmrun.plan.amounts import UNKNOWN, show_FLOPs, show_hours, show_kWh, show_real, show_tonnes, show_yuan
from llmrun.plan.conventions import CONVENTIONS, USED
from llmrun.plan.explain_storage import explain_checkpoint, explain_fit, explain_memory, explain_saving
from llmrun.plan.explain_tables import degree_lines
from llmrun.plan.flops import (
    attention_flops_per_token,
    head_flops_per_token,
    projection_flops_per_token,
)
from llmrun.plan.language import Say, english
from llmrun.plan.plan import Plan
from llmrun.plan.published import petaflop_days, tokens_per_parameter


def explanation(plan: Plan, say: Say = english) -> str:
    """The formulas, in the order in which they build on each other."""
    blocks: dict[str, Callable[[Plan, Say], list[str]]] = {
        say("batch"): _batch,
        say("what each D costs (the same bits for all)"): degree_lines,
        say("parameters"): _parameters,
        "FLOPs": _flops,
        say("memory per rank"): explain_memory,
        say("what would fit"): explain_fit,
        say("checkpoint"): explain_checkpoint,
        say("interval between checkpoints"): explain_saving,
        say("time, energy, CO2, money"): _costs,
    }
    told = {title: block(plan, say) for title, block in blocks.items()}
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in told.items() if lines
    )


def _batch(plan: Plan, say: Say) -> list[str]:
    """Batch algebra and lanes."""
    batch = plan.batch
    smallest, largest = plan.A_per_rank
    each = say("micro-batches a step")
    ranks = (
        f"A = M / D = {batch.M:,} / {batch.D:,} = {batch.A:,}"
        if batch.A is not None
        else say(
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
        say(
            "sequences of a micro-batch = μ_tok / L_ctx = {mu:,} / {L:,} = {n:,}",
            mu=batch.mu_tok,
            L=batch.L_ctx,
            n=batch.sequences,
        ),
        f"steps = floor(T_tokens / GB_tok) = floor({batch.T_tokens:,} / {batch.gb_tok:,}) = {batch.steps:,}",
        f"tokens_seen = steps · GB_tok = {batch.tokens_seen:,}",
        say(
            "warm-up = ceil(warmup_tokens / GB_tok) = ceil({warmup:,} / {gb:,}) = {steps:,} steps, {tokens:,} tokens",
            warmup=warmup,
            gb=batch.gb_tok,
            steps=batch.warmup_steps,
            tokens=warmup_tokens,
        ),
        say("lanes: V = {V:,}, each of M / V = {n:,}", V=batch.V, n=batch.micro_batches_per_lane),
    ]


def _parameters(plan: Plan, say: Say) -> list[str]:
    """Where the parameters are."""
    count, shape = plan.parameters, plan.shape
    norms = count.N_params - shape.n_layers * count.block
    tied = say(" (shares the token table)") if shape.tie_embeddings else ""
    lines = [
        say("block = {n:,}", n=count.block),
        say(
            "N_params = n_layers · block + norms = {layers:,} · {block:,} + {norms:,} = {N:,}",
            layers=shape.n_layers,
            block=count.block,
            norms=norms,
            N=count.N_params,
        ),
        say("tables = {tables:,}; output head = {head:,}", tables=count.embedding, head=count.head) + tied,
        f"N_params_total = {count.N_params:,} + {count.embedding:,} + {count.head:,} = {count.N_params_total:,}",
        say(
            "tokens per parameter = {ratio} (about 20 spends FLOPs best: Hoffmann et al. 2022, arXiv 2203.15556)",
            ratio=show_real(tokens_per_parameter(plan.batch.tokens_seen, count.N_params_total)),
        ),
    ]
    if shape.beyond is not None:
        lines.append(
            say(
                "{preset} is for planning only: it has {what}",
                preset=plan.preset,
                what=shape.beyond.described(),
            )
        )
    return lines


def _flops(plan: Plan, say: Say) -> list[str]:
    """The count that is used, product by product, and beside it how others count."""
    shape, flops, batch, count = plan.shape, plan.flops, plan.batch, plan.parameters
    projections, square = projection_flops_per_token(shape), attention_flops_per_token(shape)
    head = head_flops_per_token(shape)
    lines = [
        say("a product [m,k]·[k,n] is 2·m·n·k; forward and backward are 3 times forward; per token:"),
        say("projections and MLP of a block = {n:,}", n=projections),
        say(
            "attention of a block = 4·L_ctx·n_heads·head_dim = 4·{L:,}·{heads}·{dim} = {n:,} (full square)",
            L=shape.L_ctx,
            heads=shape.n_heads,
            dim=shape.head_dim,
            n=square,
        ),
        say(
            "output head = 2·d_model·vocab_size = 2·{d:,}·{vocabulary:,} = {n:,}",
            d=shape.d_model,
            vocabulary=shape.vocab_size,
            n=head,
        ),
        say(
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
        say("conventions, over tokens_seen ({used} is used here and by the MFU of a run):", used=USED),
    ]
    for each in CONVENTIONS:
        total = each.per_token(shape, count) * batch.tokens_seen
        kind = "HFU" if each.of_hardware else ""
        share = f"{total / flops.exact:.3f}"
        lines.append(
            f"  {each.name:<20}{show_FLOPs(total):>10}{share:>7} {kind:<4} {each.formula} ({say(each.source)})"
        )
    if flops.recomputed:
        by_hardware = show_FLOPs(flops.exact + flops.recomputed)
        lines.append(
            say(
                "activation checkpointing: the hardware does {total} (HFU), MFU does not count it",
                total=by_hardware,
            )
        )
    return lines


def _costs(plan: Plan, say: Say) -> list[str]:
    """Each cost with its formula, or why it is unknown."""
    costs, D = plan.costs, plan.batch.D
    if costs.time_hours is None or costs.GPU_hours is None:
        return [f"{UNKNOWN} {costs.unknown['time_hours'].by(say)}"]
    shown = f"{say('GPU-hours')} = D · time = {D:,}·{costs.time_hours:.4g} = {show_real(costs.GPU_hours)}"
    return [*_time(plan, say), shown, *_energy(plan, say), *_rent(plan, say)]


def _time(plan: Plan, say: Say) -> list[str]:
    """The time, from a measured throughput or from the peak and an assumed MFU."""
    costs, hardware, D = plan.costs, plan.config.hardware, plan.batch.D
    assert costs.time_hours is not None
    shown = f"{costs.time_hours:.4g} h = {show_hours(costs.time_hours, say)}"
    if plan.measured is not None:
        rate = show_real(plan.measured.tokens_per_second)
        return [
            say(
                "time = tokens_seen / measured throughput = {tokens:,} / {rate} per second = {time} ({says})",
                tokens=plan.batch.tokens_seen,
                rate=rate,
                time=shown,
                says=plan.measured.says,
            )
        ]
    assert plan.accelerator is not None
    peak, precision = plan.accelerator.peak_FLOPs(plan.config.precision), plan.config.precision
    idle = f"·(1 - {plan.lanes.idle_share:.3f})" if plan.lanes.idle_share else ""
    lines = [
        f"{plan.accelerator.name}: {peak:.4g} FLOP/s dense {precision} ({plan.accelerator.source})",
        (
            f"{say('time')} = FLOPs / (D · peak · MFU) = {plan.flops.exact:.4g} / ({D:,}·{peak:.4g}·"
            f"{hardware.assumed_mfu:g}{idle}) = {shown}"
        ),
    ]
    if plan.flops.recomputed:
        hfu = hardware.assumed_mfu * (1 + plan.flops.recomputed / plan.flops.exact)
        lines.append(
            say(
                "with recomputation an MFU of {mfu:g} is an HFU of {hfu:.3g}",
                mfu=hardware.assumed_mfu,
                hfu=hfu,
            )
        )
    return lines


def _energy(plan: Plan, say: Say) -> list[str]:
    """Energy, its price, its CO2."""
    costs, hardware = plan.costs, plan.config.hardware
    if costs.energy_kWh is None or costs.yuan_energy is None or costs.tCO2 is None:
        return [f"{say('energy')} {UNKNOWN} {costs.unknown['energy_kWh'].by(say)}"]
    assert costs.GPU_hours is not None
    energy = show_kWh(costs.energy_kWh)
    power = say("measured") if hardware.watts_per_device else "TDP"
    return [
        (
            f"{say('energy')} = {power} · {say('GPU-hours')} · PUE = {costs.watts:g} W · {show_real(costs.GPU_hours)}"
            f" · {hardware.PUE:g} = {energy}"
        ),
        f"CO2 = {energy} · {hardware.kgCO2_per_kWh:g} kg/kWh = {show_tonnes(costs.tCO2)}",
        f"{say('price of energy')} = {energy} · {hardware.yuan_per_kWh:g} ¥/kWh = {show_yuan(costs.yuan_energy)}",
    ]


def _rent(plan: Plan, say: Say) -> list[str]:
    """The price of the devices."""
    costs, label = plan.costs, say("price of GPUs")
    if costs.yuan_GPU is None or costs.GPU_hours is None:
        return [f"{label} {UNKNOWN} {costs.unknown['yuan_GPU'].by(say)}"]
    per_hour = plan.config.hardware.yuan_per_GPU_hour
    shown = f"{show_real(costs.GPU_hours)} · {per_hour:g} ¥/GPU-hour = {show_yuan(costs.yuan_GPU)}"
    return [
        f"{label} = {shown}",
        say("¥/kWh and ¥/GPU-hour are two prices, never added: rent includes energy"),
    ]
