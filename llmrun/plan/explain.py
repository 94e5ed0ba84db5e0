"""Every formula of a plan with its numbers put in, and where it comes from."""

from llmrun.plan.amounts import UNKNOWN, show_bytes, show_FLOPs, show_hours, show_kWh, show_real, show_yuan
from llmrun.plan.flops import (
    attention_flops_per_token,
    head_flops_per_token,
    projection_flops_per_token,
)
from llmrun.plan.plan import Plan


def explanation(plan: Plan) -> str:
    """The formulas, in the order in which they build on each other."""
    blocks = {
        "batch": _batch(plan),
        "parameters": _parameters(plan),
        "FLOPs": _flops(plan),
        "checkpoint": _checkpoint(plan),
        "memory per rank": _memory(plan),
        "time, energy, money": _costs(plan),
    }
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in blocks.items()
    )


def _batch(plan: Plan) -> list[str]:
    """Batch algebra and lanes."""
    batch, lanes = plan.batch, plan.lanes
    smallest, largest = plan.A_per_rank
    nodes = " to ".join(
        f"{count:,}" for count in sorted({min(lanes.nodes_per_rank), max(lanes.nodes_per_rank)})
    )
    return [
        f"M = GB_tok / μ_tok = {batch.gb_tok:,} / {batch.mu_tok:,} = {batch.M:,} micro-batches a step",
        f"A = M / D = {batch.M:,} / {batch.D:,} = {batch.A:,}"
        if batch.A is not None
        else f"A: D = {batch.D:,} does not divide M = {batch.M:,}; ranks compute {smallest:,} to {largest:,} micro-batches",
        f"sequences of one micro-batch = μ_tok / L_ctx = {batch.mu_tok:,} / {batch.L_ctx:,} = {batch.sequences:,}",
        f"steps = floor(T_tokens / GB_tok) = floor({batch.T_tokens:,} / {batch.gb_tok:,}) = {batch.steps:,}",
        f"tokens_seen = steps · GB_tok = {batch.tokens_seen:,}",
        (
            f"warm-up = ceil(warmup_tokens / GB_tok) = ceil({plan.config.schedule.warmup_tokens:,} / {batch.gb_tok:,})"
            f" = {batch.warmup_steps:,} steps"
        ),
        (
            f"lanes: V = {batch.V:,}, each of M / V = {batch.micro_batches_per_lane:,} micro-batches; "
            f"gradient buffers per rank: {lanes.buffers}; partial sums sent per rank: {nodes}; idle {lanes.idle_share:.1%}"
        ),
    ]


def _parameters(plan: Plan) -> list[str]:
    """Where the parameters are."""
    count, shape = plan.parameters, plan.shape
    final = count.N_params - shape.n_layers * count.block
    return [
        f"block = {count.block:,}",
        f"N_params = n_layers · block + final norm = {shape.n_layers:,} · {count.block:,} + {final:,} = {count.N_params:,}",
        f"tables = {count.embedding:,}; output head = {count.head:,}"
        + (" (shares the token table)" if shape.tie_embeddings else ""),
        f"N_params_total = {count.N_params:,} + {count.embedding:,} + {count.head:,} = {count.N_params_total:,}",
    ]


def _flops(plan: Plan) -> list[str]:
    """Both conventions for attention, and both forms of 6·N·T."""
    shape, flops, batch, count = plan.shape, plan.flops, plan.batch, plan.parameters
    projections, square = projection_flops_per_token(shape), attention_flops_per_token(shape)
    head = head_flops_per_token(shape)
    lines = [
        "a product [m,k]·[k,n] is 2·m·n·k; forward and backward are 3 times forward; per token:",
        f"projections and MLP of a block = {projections:,}",
        (
            f"attention of a block = 4·L_ctx·n_heads·head_dim = 4·{shape.L_ctx:,}·{shape.n_heads}·{shape.head_dim} = {square:,}"
            " (full square; PaLM, arXiv 2204.02311, appendix B)"
        ),
        f"output head = 2·d_model·vocab_size = 2·{shape.d_model:,}·{shape.vocab_size:,} = {head:,}",
        f"FLOPs per token = 3·({shape.n_layers}·({projections:,} + {square:,}) + {head:,}) = {flops.per_token:,}",
        f"FLOPs = {flops.per_token:,} · tokens_seen {batch.tokens_seen:,} = {show_FLOPs(flops.exact)}",
        f"with the causal half of the square (Megatron-LM) = {show_FLOPs(flops.causal)}",
        (
            f"6·N_params·tokens_seen = 6·{count.N_params:,}·{batch.tokens_seen:,} = {show_FLOPs(flops.six_NT)}"
            " (Kaplan et al. 2020, arXiv 2001.08361)"
        ),
        f"6·N_params_total·tokens_seen = {show_FLOPs(flops.six_NT_total)} (GPT-3, arXiv 2005.14165)",
    ]
    if flops.recomputed:
        total = flops.exact + flops.recomputed
        lines.append(
            f"recomputation adds {show_FLOPs(flops.recomputed)}: the hardware does {show_FLOPs(total)} (HFU), MFU does not count it"
        )
    return lines


def _checkpoint(plan: Plan) -> list[str]:
    """What is written, and the textbook's form."""
    size, N, D = plan.checkpoint, plan.parameters.N_params_total, plan.batch.D
    return [
        (
            f"llmrun writes fp32 weights and two fp32 moments: 12·N_params_total = 12·{N:,} = {size.total:,} bytes"
            f" = {show_bytes(size.total)}; {show_bytes(size.per_rank)} from each of D = {D:,}"
        ),
        (
            f"textbook, bf16 weights and two fp32 moments: N·2 + N·8 = {size.textbook_total:,} bytes"
            f" = {show_bytes(size.textbook_total)}; {show_bytes(size.textbook_per_rank)} from each of D = {D:,}"
        ),
    ]


def _memory(plan: Plan) -> list[str]:
    """Each part with its formula."""
    memory = plan.memory
    parts = [f"{part.name:<18}{show_bytes(part.bytes):>10}   {part.formula}" for part in memory.parts]
    buffer = memory.checkpoint_buffer
    return [
        *parts,
        f"{'together':<18}{show_bytes(memory.device_bytes):>10}   = {memory.device_bytes:,} bytes",
        f"{buffer.name:<18}{show_bytes(buffer.bytes):>10}   {buffer.formula}",
        "activations after Korthikanti et al. 2022 (arXiv 2205.05198, section 4), adapted to this model's operations",
    ]


def _costs(plan: Plan) -> list[str]:
    """Each cost with its formula, or why it is unknown."""
    costs, hardware, D = plan.costs, plan.config.hardware, plan.batch.D
    if plan.accelerator is None or costs.time_hours is None or costs.GPU_hours is None:
        return [f"{UNKNOWN} {costs.unknown['time_hours']}"]
    name, precision = plan.accelerator.name, plan.config.precision
    peak = plan.accelerator.peak_FLOPs(precision)
    idle = f"·(1 - {plan.lanes.idle_share:.3f})" if plan.lanes.idle_share else ""
    lines = [
        f"{name}: {peak:.4g} FLOP/s dense {precision}, TDP {plan.accelerator.TDP_W or UNKNOWN} W ({plan.accelerator.source})",
        (
            f"time = FLOPs / (D · peak · MFU) = {plan.flops.exact:.4g} / ({D:,}·{peak:.4g}·{hardware.assumed_mfu:g}{idle})"
            f" = {costs.time_hours:.4g} hours = {show_hours(costs.time_hours)}"
        ),
        f"GPU-hours = D · time = {D:,}·{costs.time_hours:.4g} = {show_real(costs.GPU_hours)}",
    ]
    if costs.energy_kWh is None or costs.yuan_energy is None:
        lines.append(f"energy {UNKNOWN} {costs.unknown['energy_kWh']}")
    else:
        lines += [
            (
                f"energy = TDP · GPU-hours · PUE = {plan.accelerator.TDP_W} W · {show_real(costs.GPU_hours)} · {hardware.PUE:g}"
                f" = {show_kWh(costs.energy_kWh)}"
            ),
            f"price of energy = {show_kWh(costs.energy_kWh)} · {hardware.yuan_per_kWh:g} ¥/kWh = {show_yuan(costs.yuan_energy)}",
        ]
    if costs.yuan_GPU is None:
        lines.append(f"price of GPUs {UNKNOWN} {costs.unknown['yuan_GPU']}")
    else:
        lines.append(
            f"price of GPUs = {show_real(costs.GPU_hours)} · {hardware.yuan_per_GPU_hour:g} ¥/GPU-hour = {show_yuan(costs.yuan_GPU)}"
        )
    return lines
