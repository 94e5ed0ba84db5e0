"""Memory, checkpoints and interruptions of a plan, formula by formula."""

from llmrun.plan.amounts import UNKNOWN, show_bytes, show_hours, show_percent, show_real
from llmrun.plan.explain_tables import goodput_lines
from llmrun.plan.language import Say, padded
from llmrun.plan.memory_parts import MemoryPart
from llmrun.plan.plan import Plan, fitting
from llmrun.plan.published import activation_bytes_per_block, block_input_bytes, zero_bytes

NAME_WIDTH = 20


def _part_line(part: MemoryPart, say: Say) -> str:
    """Name, bytes, formula and what it means."""
    formula = f"{part.formula} ({say(part.means)})" if part.formula else say(part.means)
    return f"{padded(say(part.name), NAME_WIDTH)}{show_bytes(part.bytes):>9}   {formula}"


def explain_memory(plan: Plan, say: Say) -> list[str]:
    """Each part with its formula, and the formulas of papers beside."""
    memory, shape, batch = plan.memory, plan.shape, plan.batch
    N = plan.parameters.N_params_total
    states = ", ".join(f"ZeRO-{stage} {show_bytes(zero_bytes(N, batch.D, stage))}" for stage in range(4))
    return [
        *(_part_line(part, say) for part in memory.parts),
        f"{padded(say('together'), NAME_WIDTH)}{show_bytes(memory.device_bytes):>9}   = {memory.device_bytes:,} bytes",
        _part_line(memory.checkpoint_buffer, say),
        say("beside it, what papers give:"),
        say(
            "  activations of a GPT block without a fused kernel = μ_tok·(34·d_model + 5·n_heads·L_ctx) = {bytes} "
            "(Korthikanti et al. 2022, arXiv 2205.05198, eq. 1)",
            bytes=show_bytes(activation_bytes_per_block(shape, batch.mu_tok)),
        ),
        say(
            "  inputs of all blocks in bf16, under full recomputation = 2·μ_tok·n_layers·d_model = {bytes}",
            bytes=show_bytes(block_input_bytes(shape, batch.mu_tok)),
        ),
        say(
            "  weights, gradients and optimizer in mixed precision: {states} (Rajbhandari et al. 2020, arXiv 1910.02054)",
            states=states,
        ),
    ]


def explain_fit(plan: Plan, say: Say) -> list[str]:
    """Every remedy with what it gives and what it costs."""
    found = fitting(plan)
    if found is None:
        return [say("{key} is not set", key="hardware.accelerator")]
    assert plan.accelerator is not None
    largest = UNKNOWN if found.largest_mu_tok is None else f"{found.largest_mu_tok:,}"
    lines = [
        say(
            "{name} has {has}, a rank needs {needs}",
            name=plan.accelerator.name,
            has=show_bytes(found.has),
            needs=show_bytes(found.needs),
        ),
        say("largest μ_tok that fits, a multiple of L_ctx with which V divides M: {n}", n=largest),
    ]
    for remedy in found.remedies:
        bits = say("same bits") if remedy.same_bits else say("other bits")
        verdict = say("fits") if remedy.fits else say("does not fit")
        price = "; ".join(each.by(say) for each in remedy.price)
        lines.append(
            f"--set {' --set '.join(remedy.settings)}: {show_bytes(remedy.bytes)}, {verdict}, {bits}; {price}"
        )
    if found.most_layers is not None:
        lines.append(
            say(
                "with all of it at most {n:,} blocks of this width fit: llmrun shards data, not models",
                n=found.most_layers,
            )
        )
    return lines


def explain_checkpoint(plan: Plan, say: Say) -> list[str]:
    """What is written, the textbook's form, what stays on disk."""
    size, N, D, kept = plan.checkpoint, plan.parameters.N_params_total, plan.batch.D, plan.retention
    parts = ", ".join(f"{name} {show_bytes(part)}" for name, part in size.parts.items())
    return [
        say(
            "llmrun writes fp32 weights and two fp32 moments: 12·N_params_total = 12·{N:,} = {total:,} bytes = {shown}; "
            "{per_rank} from each of D = {D:,}",
            N=N,
            total=size.total,
            shown=show_bytes(size.total),
            per_rank=show_bytes(size.per_rank),
            D=D,
        ),
        say("by part: {parts}; headers and JSON are less than 1 % more", parts=parts),
        say(
            "textbook, bf16 weights and two fp32 moments: N·2 + N·8 = {total:,} bytes = {shown}; {per_rank} from each of D = {D:,}",
            total=size.textbook_total,
            shown=show_bytes(size.textbook_total),
            per_rank=show_bytes(size.textbook_per_rank),
            D=D,
        ),
        say(
            "on disk: keep_last {newest:,} + best {best} + kept for ever {permanent:,} + the one being written = {n:,}, {total}",
            newest=kept.newest,
            best=kept.best,
            permanent=kept.permanent,
            n=kept.count,
            total=show_bytes(kept.count * size.total),
        ),
    ]


def explain_saving(plan: Plan, say: Say) -> list[str]:
    """Young, Daly, goodput, expected interruptions."""
    saving, hardware, D = plan.saving, plan.config.hardware, plan.batch.D
    lines = [
        say(
            "δ = {bytes} / {GBps:g} GB/s = {delta} to write one; llmrun writes in the background, so training waits less",
            bytes=show_bytes(plan.checkpoint.total),
            GBps=hardware.checkpoint_GBps,
            delta=show_hours(saving.delta_s / 3600, say),
        ),
        say(
            "M = device_MTBF_hours / D = {device:,.0f} / {D:,} = {M} between interruptions "
            "(Llama 3 405B: 54 days · 16,384 / 419 = 50,677 hours, arXiv 2407.21783, section 3.3.4)",
            device=hardware.device_MTBF_hours,
            D=D,
            M=show_hours(saving.MTBF_s / 3600, say),
        ),
        say(
            "Young = sqrt(2·δ·M) = {young} (Young 1974); Daly = Young·(1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ = {daly} (Daly 2006, eq. 37)",
            young=show_hours(saving.young.interval_s / 3600, say),
            daly=show_hours(saving.daly.interval_s / 3600, say),
        ),
        say(
            "goodput = τ / (M·e^(R/M)·(e^((τ+δ)/M) - 1)), R = {R} until training goes on (Daly 2006, eq. 20):",
            R=show_hours(saving.restart_s / 3600, say),
        ),
        *(f"  {line}" for line in goodput_lines(plan, say)),
    ]
    if saving.wall_hours is not None and saving.interruptions is not None:
        planned = saving.configured or saving.daly
        lines.append(
            say(
                "with interruptions: time / goodput {share} = {time}, / M = {n} interruptions",
                share=show_percent(planned.goodput),
                time=show_hours(saving.wall_hours, say),
                n=show_real(saving.interruptions),
            )
        )
    return lines
