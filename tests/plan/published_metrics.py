"""Each published figure computed by llmrun's own plan functions from the inputs of its case.

Here stand only the way from a case's inputs to these functions, and units.
"""

from collections.abc import Callable, Mapping

from llmrun.config.model_shape import complete_model, shape_of
from llmrun.config.presets import preset_table
from llmrun.config.schema import ModelConfig
from llmrun.core.batch import Batch
from llmrun.core.model.flops import flops_6NT, utilisation
from llmrun.core.model.parameters import ParameterCount, count_parameters
from llmrun.core.model.shape import ModelShape
from llmrun.plan import conventions as published
from llmrun.plan.checkpoint_size import checkpoint_size, payload_bytes
from llmrun.plan.conventions import convention
from llmrun.plan.costs import Prices, costs_of, energy_kWh, hours_at, price, time_hours, tonnes_CO2
from llmrun.plan.interruptions import bytes_per_day, device_MTBF_of, run_MTBF_s, young_interval_s
from plan.published import Expected

PRESETS = {
    "bloom-176b": "bloom-176b",
    "llama31-8b-params": "llama3-8b",
    "palm-540b": "palm-540b",
    **{f"gpt3-{size}": f"gpt3-{size}" for size in ("small", "medium", "large", "xl", "2.7b", "13b", "175b")},
    **{f"llama1-{size}": f"llama1-{size}" for size in ("7b", "13b", "65b")},
    **{f"pythia-{size}": f"pythia-{size}" for size in ("70m", "160m", "1b", "1.4b", "2.8b", "6.9b")},
    **{f"gopher-{size}": f"gopher-{size}" for size in ("417m", "1.4b")},
}
"""Cases whose shape llmrun knows by name."""

LLAMA1_GPU_HOURS = {"llama1-7b": 82_432, "llama1-13b": 135_168, "llama1-65b": 1_022_362}
"""Table 15 of the paper, beside the energies that a case expects."""
BLOOM_WALL_HOURS = 118 * 24 + 5 + 41 / 60
"""Luccioni et al. 2022, table 1."""
TITAN_TOKENS_PER_SECOND = {"MFU_eager": 5762, "MFU_compile": 6667}
"""Of one GPU, from the case's source."""


def shape(e: Expected) -> ModelShape:
    """The shape of a case: by its preset where there is one, else from its inputs."""
    i = e.inputs
    preset = PRESETS.get(e.key[0])
    if preset is not None:
        known = preset_table()[preset]
        model = ModelConfig(preset=preset, **known.model)
        return shape_of(complete_model(model, known.model["vocab_size"]), i.get("L_ctx", known.L_ctx))
    vocabulary = i.get("vocab", 32_000)
    model = ModelConfig(
        n_layers=i["n_layers"],
        d_model=i["d_model"],
        n_heads=i.get("n_heads", i["d_model"] // 128),
        head_dim=i.get("head_dim"),
        d_ff=i.get("d_ff", 4 * i["d_model"]),
        vocab_size=vocabulary,
        mlp="gelu",
        norm="layernorm",
        position="learned",
        bias=i.get("bias", True),
    )
    return shape_of(complete_model(model, vocabulary), i["L_ctx"])


def square_shape(numbers: Mapping[str, int]) -> ModelShape:
    """A shape of a heads, s tokens and width h, as Korthikanti et al. write it."""
    model = ModelConfig(n_layers=1, d_model=numbers["h"], n_heads=numbers["a"], mlp="gelu", vocab_size=51_200)
    return shape_of(complete_model(model, 51_200), numbers["s"])


def count(e: Expected) -> ParameterCount:
    """Parameters of a case."""
    return count_parameters(shape(e))


def N_total(e: Expected) -> int:
    """All parameters, as stated or counted."""
    return round(e.inputs["N"]) if "N" in e.inputs else count(e).N_params_total


def per_token(e: Expected, name: str) -> int:
    """FLOPs per token by a convention."""
    return convention(name).per_token(shape(e), count(e))


def gb_tok(e: Expected) -> int:
    """Tokens of a step."""
    i = e.inputs
    return round(i["GB_tok"]) if "GB_tok" in i else i["GB_seqs"] * i["L_ctx"]


def batch(e: Expected) -> Batch:
    """The batch of a case; V = D where a paper has no lanes."""
    i = e.inputs
    mu_tok = i.get("micro_batch_seqs", i.get("local_batch", 1)) * i.get("L_ctx", 2048)
    D = i.get("DP", i.get("n_gpus", 1) // i.get("TP", 1) // i.get("PP", 1))
    tokens = i["grad_accum_per_gpu"] * mu_tok * D if "grad_accum_per_gpu" in i else None
    if "local_batch" in i:
        tokens = mu_tok * D
    tokens = tokens or gb_tok(e)
    T = i["steps"] * tokens if "steps" in i else round(i.get("T_tokens", tokens))
    return Batch(tokens, mu_tok, i.get("L_ctx", 2048), D, D, T, 0)


def step_rate(e: Expected, name: str) -> float:
    """FLOP/s of all devices by a convention, from the seconds of an iteration."""
    return per_token(e, name) * gb_tok(e) / e.inputs["sec_per_iter"]


def peak(e: Expected) -> float:
    """FLOP/s of one device."""
    return e.inputs.get("peak_tflops", 312) * 1e12


def days(e: Expected, FLOPs: float) -> float:
    """Days at a stated rate of the hardware."""
    i = e.inputs
    rate = i.get("tflops_per_gpu", i.get("tflops_per_gpu_hw")) * 1e12
    return time_hours(FLOPs, i["n_gpus"], rate, 1.0) / 24


def T_tokens(e: Expected) -> int:
    """Tokens of a run, through the batch algebra where steps are stated."""
    i = e.inputs
    if "batch_schedule" in i:
        sequences = sum(steps * size for steps, size in i["batch_schedule"])
        return sequences * i["L_ctx"]
    return batch(e).tokens_seen if "steps" in i else round(i["T_tokens"])


def gpu_hours(e: Expected) -> float:
    """Device-hours as stated; of Llama 1 from the table that the case quotes."""
    i = e.inputs
    return LLAMA1_GPU_HOURS[e.key[0]] if e.key[0] in LLAMA1_GPU_HOURS else i["GPU_hours"]


def device_hours(hours: float, D: int) -> float:
    """D devices over `hours`, as `plan` has it."""
    no_price = Prices(1.0, 0.0, None)
    costs = costs_of(
        0,
        D,
        idle_share=0.0,
        accelerator=None,
        precision="bf16",
        mfu=1.0,
        prices=no_price,
        measured_hours=hours,
    )
    assert costs.GPU_hours is not None
    return costs.GPU_hours


def energy(e: Expected, *, PUE: float | None = None) -> float:
    """Energy of a case in kWh."""
    i = e.inputs
    PUE = PUE or i.get("PUE") or i.get("PUE_assumed") or 1.0
    if "GPU_energy_MWh_measured" in i:
        return energy_kWh(1000.0, i["GPU_energy_MWh_measured"] * 1000, PUE)
    hours = device_hours(i["days"] * 24, i["chips"]) if "chips" in i else gpu_hours(e)
    return energy_kWh(i.get("power_w_measured", i.get("power_w")), hours, PUE)


def carbon(e: Expected) -> float:
    """Tonnes of CO2 of a case."""
    i = e.inputs
    return tonnes_CO2(energy(e), i.get("kgCO2_per_kWh", i.get("kgCO2_per_kWh_assumed")))


def row_energy(e: Expected, row: str) -> float:
    """MWh of another model's row of Llama 1's table 15."""
    i = e.inputs
    return energy_kWh(i["power_w"], i["rows"][row], i["PUE"]) / 1000


def implied(e: Expected, FLOPs_per_token: float) -> float:
    """Share of the peak that published device-hours, or a throughput, mean."""
    i = e.inputs
    if "tok_s_gpu" in i:
        return utilisation(FLOPs_per_token * i["tok_s_gpu"], 1, peak(e))
    hours = device_hours(i["days"] * 24, i["n_gpus"]) if "days" in i else e.other("GPU_hours")
    return utilisation(FLOPs_per_token * T_tokens(e) / (hours * 3600), 1, peak(e))


def measured_share(e: Expected, name: str) -> float:
    """Share of the peak from a stated throughput of all devices, or from the seconds of an iteration."""
    i = e.inputs
    D = i.get("n_gpus", i.get("chips"))
    rate = per_token(e, name) * i["tok_s"] if "tok_s" in i else step_rate(e, name)
    return utilisation(rate, D, peak(e))


def mfu_of_titan(e: Expected) -> float:
    """MFU of one GPU at the tokens per second of the source."""
    return utilisation(per_token(e, "torchtitan") * TITAN_TOKENS_PER_SECOND[e.metric], 1, peak(e))


def narayanan_hfu(e: Expected) -> float:
    """Share of the peak at a stated rate."""
    return 100 * utilisation(e.inputs["tflops_per_gpu"] * 1e12, 1, peak(e))


def hfu(e: Expected) -> float:
    """HFU by the convention of each source."""
    i = e.inputs
    if "tflops_per_gpu" in i:
        return narayanan_hfu(e)
    if "activation_checkpointing" in i:
        return 100 * measured_share(e, "recompute_mosaic" if i["activation_checkpointing"] else "palm")
    return 100 * measured_share(e, "recompute_selective")


def GPU_hours(e: Expected) -> float:
    """Device-hours: from an implied MFU, a throughput of one device, or days."""
    i = e.inputs
    if "tok_s_gpu" in i:
        return hours_at(round(i["T_tokens"]), i["tok_s_gpu"])
    if "days" in i:
        return device_hours(i["days"] * 24, i["n_gpus"])
    return time_hours(per_token(e, "torchtitan") * T_tokens(e), 1, peak(e), e.other("implied_MFU"))


def cost(e: Expected) -> float:
    """Rent of a run; the unit of money is the source's."""
    i = e.inputs
    if "node_price_per_hour_usd" in i:
        return price(run_hours(e), i["node_price_per_hour_usd"])
    return price(GPU_hours(e), i["price_per_gpu_hour_usd"])


def run_hours(e: Expected) -> float:
    """Hours of a run at the seconds of its steps."""
    i = e.inputs
    return hours_at(T_tokens(e), gb_tok(e) / i["sec_per_step"])


def deepseek_hours(e: Expected, tokens: float, D: int) -> float:
    """Hours of D devices at the stated device-hours for 10^12 tokens."""
    rate = 1e12 / (e.inputs["GPU_hours_per_T"] * 3600)
    return hours_at(round(tokens), rate * D)


def young(e: Expected) -> float:
    """Young's interval in seconds."""
    i = e.inputs
    if "ref" in i:
        ref = i["ref"]
        device = device_MTBF_of(ref["failures"], ref["gpus"], ref["days"])
        return young_interval_s(i["ckpt_s"], run_MTBF_s(device, i["n_gpus"]))
    return young_interval_s(i.get("ckpt_s", i.get("ckpt_save_s")), i.get("MTBF_s", 7 * 86_400))


def zero(e: Expected, stage: int) -> float:
    """GB of model states a rank."""
    return published.zero_bytes(round(e.inputs["N"]), e.inputs["DP"], stage) / 1e9


def faster(e: Expected) -> float:
    """Throughput gained over full recomputation, in percent, as a ratio of two MFUs."""
    rate, i = per_token(e, "exact") * gb_tok(e), e.inputs
    now, before = (
        utilisation(rate / i[name], i["n_gpus"], peak(e))
        for name in ("sec_per_iter", "sec_per_iter_full_recompute")
    )
    return 100 * (now / before - 1)


def boundary(e: Expected, sequences: int) -> float:
    """Bytes of all blocks' inputs."""
    return published.block_input_bytes(shape(e), sequences * e.inputs["L_ctx"])


def mfu_percent(e: Expected) -> float:
    """MFU in percent: MosaicML counts as PaLM does, Korthikanti et al. every product."""
    return 100 * measured_share(e, "palm" if "tok_s" in e.inputs else "exact")


def six_NT(e: Expected) -> float:
    """6·N·T with all parameters."""
    return flops_6NT(N_total(e), round(e.inputs["T_tokens"]))


METRICS: dict[str, Callable[[Expected], float]] = {
    "N_total": lambda e: count(e).N_params_total,
    "N_non_embedding": lambda e: count(e).N_params,
    "FLOPs_6NT": six_NT,
    "train_FLOPs": six_NT,
    "PF_days": lambda e: published.petaflop_days(six_NT(e)),
    "GB_tok": lambda e: batch(e).gb_tok,
    "GB_tok_8gpu": lambda e: batch(e).gb_tok,
    "T_tokens": T_tokens,
    "steps": lambda e: round(e.inputs["T_tokens"]) // gb_tok(e),
    "A_accum": lambda e: batch(e).A or 0,
    "tokens_per_param": lambda e: published.tokens_per_parameter(T_tokens(e), count(e).N_params_total),
    "FLOPs_per_seq_palm": lambda e: per_token(e, "nanogpt") * e.inputs["L_ctx"],
    "FLOPs_per_seq_exact": lambda e: per_token(e, "exact") * e.inputs["L_ctx"],
    "MFU": lambda e: utilisation(per_token(e, "exact") * e.inputs["L_ctx"] * 100 / 0.755, 1, peak(e)),
    "MFU_pct": mfu_percent,
    "MFU_no_attn": lambda e: measured_share(e, "6NT_total"),
    "MFU_attn": lambda e: measured_share(e, "palm"),
    "MFU_eager": mfu_of_titan,
    "MFU_compile": mfu_of_titan,
    "HFU_pct": hfu,
    "implied_MFU": lambda e: implied(e, per_token(e, "torchtitan")),
    "implied_MFU_6N": lambda e: implied(e, flops_6NT(N_total(e), 1)),
    "implied_MFU_with_attn": lambda e: implied(e, per_token(e, "torchtitan")),
    "ratio_ours_over_6ND": lambda e: per_token(e, "chinchilla") / flops_6NT(N_total(e), 1),
    "TFLOPs_per_GPU_hw": lambda e: step_rate(e, "recompute_block") / e.inputs["n_gpus"] / 1e12,
    "TFLOPs_per_GPU_8NT": lambda e: step_rate(e, "8NT_total") / e.inputs["n_gpus"] / 1e12,
    "aggregate_PFLOPs": lambda e: 1e21 / (days(e, 1e21) * 86_400) / 1e15,
    "tokens_per_s": lambda e: gb_tok(e) / e.inputs["sec_per_iter"],
    "time_days": lambda e: (
        hours_at(T_tokens(e), e.inputs["tok_s_gpu"] * e.inputs["n_gpus"]) / 24
        if "tok_s_gpu" in e.inputs
        else days(e, per_token(e, "recompute_block") * e.inputs["T_tokens"])
    ),
    "time_days_F": lambda e: days(e, per_token(e, "recompute_block") * e.inputs["T_tokens"]),
    "time_days_8TP": lambda e: days(e, per_token(e, "8NT_total") * e.inputs["T_tokens"]),
    "time_days_6NT": lambda e: (
        time_hours(
            flops_6NT(count(e).N_params_total, round(e.inputs["T_tokens"])),
            e.inputs["n_gpus"],
            peak(e),
            e.inputs["assumed_mfu"],
        )
        / 24
    ),
    "time_hours": run_hours,
    "GPU_hours": GPU_hours,
    "GPU_hours_from_wall": lambda e: device_hours(BLOOM_WALL_HOURS, e.inputs["n_gpus"]),
    "GPU_hours_pretrain": lambda e: deepseek_hours(e, e.inputs["T_tokens"], 1),
    "days_per_T": lambda e: deepseek_hours(e, 1e12, e.inputs["n_gpus"]) / 24,
    "cost_usd": cost,
    "cost_total_usd": lambda e: price(
        sum(e.inputs["GPU_hours"].values()), e.inputs["price_per_gpu_hour_usd"]
    ),
    "cost_pretrain_usd": lambda e: price(
        e.inputs["GPU_hours"]["pretrain"], e.inputs["price_per_gpu_hour_usd"]
    ),
    "energy_MWh": lambda e: energy(e) / 1000,
    "energy_kWh": energy,
    "energy_kWh_noPUE": lambda e: energy(e, PUE=1.0),
    "GPU_energy_MWh": lambda e: energy(e, PUE=1.0) / 1000,
    "OLMo2_paper_GPU_MWh": lambda e: energy(e, PUE=1.0) / 1000,
    "OPT_MWh": lambda e: row_energy(e, "OPT-175B"),
    "BLOOM_MWh": lambda e: row_energy(e, "BLOOM-175B"),
    "tCO2": carbon,
    "tCO2_gross": carbon,
    "ckpt_estimate_GB": lambda e: checkpoint_size(count(e).N_params_total, 1).total / 1e9,
    "ckpt_measured_bytes": lambda e: checkpoint_size(count(e).N_params_total, 1).total,
    "ckpt_total_TiB": lambda e: payload_bytes(count(e).N_params_total, 14) / 2**40,
    "ckpt_weights_GiB": lambda e: payload_bytes(count(e).N_params_total, 2) / 2**30,
    "ckpt_TB_per_day": lambda _: bytes_per_day(round(2.3e12), 3 * 3600) / 1e12,
    "ckpt_GB": lambda e: checkpoint_size(N_total(e), e.inputs["ranks"]).textbook_total / 1e9,
    "ckpt_per_rank_GB": lambda e: checkpoint_size(N_total(e), e.inputs["ranks"]).textbook_per_rank / 1e9,
    "throughput_increase_pct": faster,
    "act_bytes_per_layer_none_TP1": lambda e: published.activation_bytes_per_block(
        shape(e), e.inputs["micro_batch_seqs"] * e.inputs["L_ctx"]
    ),
    "boundary_act_total_TB": lambda e: boundary(e, e.inputs["batch_seqs"]) / 1e12,
    "boundary_act_micro_GB": lambda e: boundary(e, 1) / 1e9,
    "5as_h_gpt3": lambda e: published.square_over_width(square_shape(e.inputs["gpt3"])),
    "5as_h_mtnlg": lambda e: published.square_over_width(square_shape(e.inputs["mtnlg"])),
    "saved_pct_gpt3": lambda e: 100 * published.saved_by_selective(square_shape(e.inputs["gpt3"])),
    "saved_pct_mtnlg": lambda e: 100 * published.saved_by_selective(square_shape(e.inputs["mtnlg"])),
    "flop_overhead_gpt3_pct": lambda e: 100 * published.selective_overhead(square_shape(e.inputs["gpt3"])),
    "flop_overhead_mtnlg_pct": lambda e: 100 * published.selective_overhead(square_shape(e.inputs["mtnlg"])),
    "mem_GB_baseline_dp64": lambda e: zero(e, 0),
    "mem_GB_Pos_dp64": lambda e: zero(e, 1),
    "mem_GB_Pos_g_dp64": lambda e: zero(e, 2),
    "mem_GB_Pos_g_p_dp64": lambda e: zero(e, 3),
    "Young_interval_s": young,
    "interval_min": lambda e: young(e) / 60,
    "interval_h": lambda e: young(e) / 3600,
}


def computed(e: Expected) -> float:
    """What llmrun's plan functions give."""
    return float(METRICS[e.metric](e))
