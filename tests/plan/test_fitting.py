"""What fits a device, and what would make it fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.fit import Fitting, Remedy, bytes_of, fitting_of, largest_mu_tok
from llmrun.plan.note import Note
from llmrun.plan.plan import Plan, fitting, make_plan
from llmrun.plan.warnings import plan_warnings

ROOT = Path(__file__).parents[2]


def plan_of(*overrides: str, config: str = "gpt3-13b.yaml") -> Plan:
    """A shipped config under some overrides."""
    loaded = load_config(ROOT / "configs" / config, overrides)
    return make_plan(resolve(loaded, None, MachineFacts(gpus=0)))


def found(plan: Plan) -> Fitting:
    """How a plan lies in its accelerator."""
    fit = fitting(plan)
    assert fit is not None
    return fit


def by_name(fit: Fitting) -> dict[str, Remedy]:
    """Remedies by name."""
    return {remedy.name: remedy for remedy in fit.remedies}


def test_what_does_not_fit_says_what_would() -> None:
    """13B on every rank of 80 GB does not fit: sharding does, with the same bits; fewer lanes alone do not."""
    plan = plan_of()
    fit = found(plan)
    remedies = by_name(fit)

    assert not fit.fits
    assert remedies["shard"].fits
    assert remedies["shard"].same_bits
    assert not remedies["fewer_lanes"].fits
    assert not remedies["fewer_lanes"].same_bits
    assert remedies["fewer_lanes"].price == (Note("fewer_lanes", {"D": 128}),)
    hint = plan_warnings(plan)[0].hint
    assert (hint.kind, hint.fields["settings"]) == ("remedy_same_bits", ("strategy=shard",))


def test_a_remedy_gives_what_it_says() -> None:
    """The plan with a remedy's settings has exactly the bytes that the remedy states."""
    plan = plan_of("activation_checkpointing=none", "batch.μ_tok=4Ki", "batch.V=512")
    remedies = found(plan).remedies

    assert {
        "activation_checkpointing",
        "shard",
        "activation_checkpointing+shard",
        "mu_tok",
        "fewer_lanes",
    } <= {remedy.name for remedy in remedies}
    for remedy in remedies:
        settings = ["activation_checkpointing=none", "batch.μ_tok=4Ki", "batch.V=512", *remedy.settings]
        assert plan_of(*settings).memory.device_bytes == remedy.bytes


def test_recomputation_costs_what_the_plan_then_counts() -> None:
    """The price of activation checkpointing is the share of FLOPs of the plan that has it: 25 %."""
    settings = ["data.path=null", "hardware.accelerator=V100-SXM2-16G", "activation_checkpointing"]
    without, with_it = (
        plan_of(*settings[:2], f"{settings[2]}={value}", config="llama-1b.yaml")
        for value in ("none", "block")
    )
    price = by_name(found(without))["activation_checkpointing"].price[0]

    assert price.kind == "recomputation"
    assert price.fields["share"] == with_it.flops.recomputed / with_it.flops.exact


STATED_A = (
    "T_tokens: 1B\n"
    "batch: {GB_tok: 512Ki, μ_tok: 64Ki, L_ctx: 1024, D: 2, A: 4, V: 8}\n"
    "model: {preset: gpt2-small, vocab_size: 50304}\n"
    "hardware: {accelerator: V100-SXM2-16G}\n"
)


def test_remedies_work_as_printed_where_the_config_states_A(tmp_path: Path) -> None:
    """Each way that changes μ_tok or D carries its A, so that the config with it resolves; what stays is not set."""
    path = tmp_path / "x.yaml"
    path.write_text(STATED_A, encoding="utf-8")
    machine = MachineFacts(gpus=0)
    remedies = by_name(found(make_plan(resolve(load_config(path), None, machine))))
    batches = {
        name: resolve(load_config(path, remedy.settings), None, machine).batch
        for name, remedy in remedies.items()
    }

    assert remedies["mu_tok"].settings[1:] == (f"batch.A={batches['mu_tok'].A}",)
    assert batches["mu_tok"].A != 4
    assert remedies["fewer_lanes"].settings == ("batch.V=2",)
    for name, remedy in remedies.items():
        assert (
            make_plan(resolve(load_config(path, remedy.settings), None, machine)).memory.device_bytes
            == remedy.bytes
        )
        assert batches[name].A == batches[name].M // batches[name].D


def test_more_ranks_carry_a_stated_A() -> None:
    """Twice as many ranks accumulate half as often."""
    plan = plan_of()
    has = plan_of("strategy=shard", "batch.D=256").memory.device_bytes
    fit = fitting_of(plan.shape, plan.setting, plan.batch, has, states_A=True)

    assert plan.batch.A is not None
    assert by_name(fit)["D+shard"].settings == (
        "batch.D=256",
        "strategy=shard",
        f"batch.A={plan.batch.A // 2}",
    )


def test_the_largest_mu_tok_leaves_A_whole() -> None:
    """V = 8 and D = 3 share M = 24 micro-batches of 4 sequences: 3 sequences fit, but M = 32 would have no whole A."""
    plan = plan_of(config="gpt2-small.yaml")
    batch = replace(plan.batch, gb_tok=1024 * 96, mu_tok=4096, V=8, D=3)
    has = bytes_of(plan.shape, replace(plan.setting, mu_tok=3 * 1024))

    assert batch.A == 8
    assert largest_mu_tok(plan.shape, plan.setting, batch, has) == 2 * 1024


def test_more_ranks_where_nothing_else_of_the_same_bits_helps() -> None:
    """On a device that holds just a rank of 256: sharding on 128 does not fit, so the fewest ranks that do are named."""
    plan = plan_of()
    has = plan_of("strategy=shard", "batch.D=256").memory.device_bytes
    remedies = by_name(fitting_of(plan.shape, plan.setting, plan.batch, has))
    remedy = remedies["D+shard"]

    assert not remedies["shard"].fits
    assert (remedy.settings, remedy.same_bits, remedy.fits) == (("batch.D=256", "strategy=shard"), True, True)
    assert remedy.bytes == has
    assert remedy.price[0] == Note("more_devices", {"times": 2.0})


def test_a_model_that_no_remedy_fits() -> None:
    """Where nothing suffices, the blocks that would fit are counted, and one more does not."""
    fit = found(plan_of("model.n_layers=4000", "batch.V=128"))
    assert fit.most_layers is not None
    layers = fit.most_layers
    settings = ["batch.V=128", "strategy=shard"]

    assert not any(remedy.fits for remedy in fit.remedies)
    assert plan_of(*settings, f"model.n_layers={layers}").memory.device_bytes <= fit.has
    assert plan_of(*settings, f"model.n_layers={layers + 1}").memory.device_bytes > fit.has


@given(sequences=st.integers(1, 64), memory_GB=st.integers(1, 400), recomputes=st.booleans())
@settings(max_examples=40)
def test_the_largest_mu_tok_fits_and_the_next_does_not(
    sequences: int, memory_GB: int, recomputes: bool
) -> None:
    """For any memory: it fits, V divides M, and no larger divisor fits."""
    plan = plan_of(config="gpt2-small.yaml")
    batch = replace(plan.batch, gb_tok=1024 * 8 * sequences, mu_tok=1024)
    setting = replace(plan.setting, recomputes=recomputes)
    has = memory_GB * 10**9
    largest = largest_mu_tok(plan.shape, setting, batch, has)
    allowed = [n for n in range(1, sequences + 1) if sequences % n == 0]
    fitting_ones = [n for n in allowed if bytes_of(plan.shape, replace(setting, mu_tok=1024 * n)) <= has]

    assert largest == (1024 * max(fitting_ones) if fitting_ones else None)


@given(memory_GB=st.floats(0.01, 2000))
@settings(max_examples=40)
def test_remedies_never_need_more(memory_GB: float) -> None:
    """For any device, remedies need less than the plan, their verdict is true, and a fitting plan has none."""
    plan = plan_of("activation_checkpointing=none", config="llama-1b.yaml")
    has = round(memory_GB * 1e9)
    fit = fitting_of(plan.shape, plan.setting, plan.batch, has)

    assert fit.fits == (plan.memory.device_bytes <= has)
    assert bool(fit.remedies) is not fit.fits
    assert all(remedy.bytes < fit.needs for remedy in fit.remedies)
    assert all(remedy.fits == (remedy.bytes <= has) for remedy in fit.remedies)
    assert (fit.most_layers is None) == (fit.fits or any(remedy.fits for remedy in fit.remedies))


def test_without_an_accelerator_nothing_is_claimed() -> None:
    """No device, no verdict."""
    assert fitting(plan_of("hardware.accelerator=null")) is None


@pytest.mark.parametrize("name", ["gpt2-small.yaml", "llama-1b.yaml"])
def test_what_fits_has_no_remark(name: str) -> None:
    """The shipped examples fit their devices."""
    assert plan_warnings(plan_of(config=name)) == []
