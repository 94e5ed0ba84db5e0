"""The figures of a plan as JSON: `llmrun plan --json`."""

from typing import Any

from llmrun.core.model.flops import flops_6NT
from llmrun.plan.conventions import CONVENTIONS, USED
from llmrun.plan.degrees import degree_table
from llmrun.plan.plan import Plan, fitting
from llmrun.plan.render.notes import note_text


def as_json(plan: Plan) -> dict[str, Any]:
    """The figures by their stable keys.  Counts are exact integers; None: unknown."""
    return (
        _batch(plan)
        | _model(plan)
        | _costs(plan)
        | _memory(plan)
        | _checkpoint(plan)
        | {"degrees": [row._asdict() for row in degree_table(plan.batch)]}
    )


def _batch(plan: Plan) -> dict[str, Any]:
    batch = plan.batch
    smallest, largest = plan.A_per_rank
    return {
        "name": plan.config.name,
        "preset": plan.preset,
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
        "train_tokens": plan.train_tokens,
        "epochs": plan.epochs,
        "warmup_steps": batch.warmup_steps,
        "warmup_tokens_seen": batch.warmup_steps * batch.gb_tok,
        "lr_first": plan.rates.first,
        "lr_peak": plan.rates.peak,
        "lr_last": plan.rates.last,
        "idle_share": plan.lanes.idle_share,
    }


def _model(plan: Plan) -> dict[str, Any]:
    shape, count, flops = plan.shape, plan.parameters, plan.flops
    tokens = plan.batch.tokens_seen
    if shape is None or flops is None:
        return {
            "N_params": count.N_params,
            "N_params_total": count.N_params_total,
            "FLOPs_6NT": flops_6NT(count.N_params, tokens),
            "FLOPs": plan.FLOPs,
            "FLOPs_per_token": plan.counted_FLOPs,
            "FLOPs_recomputed": None,
            "FLOPs_convention": None,
            "FLOPs_by_convention": None,
        }
    return {
        "N_params": count.N_params,
        "N_params_total": count.N_params_total,
        "FLOPs_6NT": flops.six_NT,
        "FLOPs": flops.exact,
        "FLOPs_per_token": flops.per_token,
        "FLOPs_recomputed": flops.recomputed,
        "FLOPs_muon": plan.muon.FLOPs * plan.batch.steps if plan.muon else 0,
        "N_params_muon": plan.muon.N_params if plan.muon else 0,
        "FLOPs_convention": USED,
        "FLOPs_by_convention": {
            convention.name: convention.per_token(shape, count) * tokens for convention in CONVENTIONS
        },
    }


def _costs(plan: Plan) -> dict[str, Any]:
    costs = plan.costs
    return {
        "accelerator": plan.accelerator.name if plan.accelerator else None,
        "time_hours": costs.time_hours,
        "GPU_hours": costs.GPU_hours,
        "watts_per_device": costs.watts,
        "energy_kWh": costs.energy_kWh,
        "tCO2": costs.tCO2,
        "yuan_energy": costs.yuan_energy,
        "yuan_GPU": costs.yuan_GPU,
        "unknown": {name: note_text(reason) for name, reason in costs.unknown.items()},
    }


def _memory(plan: Plan) -> dict[str, Any]:
    found = fitting(plan)
    remedies = found.remedies if found else ()
    return {
        "memory_bytes_per_rank": plan.memory.device_bytes,
        "memory_parts_bytes": {part.name.replace(" ", "_"): part.bytes for part in plan.memory.parts},
        "memory_moment": plan.memory.moment,
        "fits": found.fits if found else None,
        "largest_mu_tok": found.largest_mu_tok if found else None,
        "most_layers": found.most_layers if found else None,
        "remedies": [
            {
                "name": remedy.name,
                "set": list(remedy.settings),
                "same_bits": remedy.same_bits,
                "memory_bytes_per_rank": remedy.bytes,
                "fits": remedy.fits,
                "price": [note_text(price) for price in remedy.price],
            }
            for remedy in remedies
        ],
    }


def _checkpoint(plan: Plan) -> dict[str, Any]:
    size, kept, saving = plan.checkpoint, plan.retention, plan.saving
    configured = saving.configured
    return {
        "checkpoint_bytes": size.total,
        "checkpoint_bytes_per_rank": size.per_rank,
        "checkpoint_parts_bytes": size.parts,
        "checkpoint_bytes_textbook": size.textbook_total,
        "checkpoint_buffer_bytes_per_rank": plan.memory.checkpoint_buffer.bytes,
        "checkpoints_on_disk": kept.count,
        "checkpoints_on_disk_bytes": kept.count * size.total,
        "checkpoint_write_seconds": saving.delta_s,
        "MTBF_hours": saving.MTBF_s / 3600,
        "wall_hours": saving.wall_hours,
        "interruptions": saving.interruptions,
        "young_seconds": saving.young.interval_s,
        "daly_seconds": saving.daly.interval_s,
        "goodput_at_daly": saving.daly.goodput,
        "interval_seconds": configured.interval_s if configured else None,
        "goodput": configured.goodput if configured else None,
        "goodput_by_interval": [row._asdict() for row in saving.rows],
    }
