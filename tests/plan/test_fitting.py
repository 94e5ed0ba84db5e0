"""What fits a device, and what would make it fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.plan.fitting import Fitting, Remedy, bytes_of, fitting_of, largest_mu_tok
from llmrun.plan.plan import Plan, fitting, make_plan
from llmrun.plan.remarks import remarks

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
    assert "D is at most 128 for ever" in str(remedies["fewer_lanes"].price[0])
    assert str(remarks(plan)[0].hint).startswith("`--set strategy=shard` needs ")


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


def test_more_ranks_where_nothing_else_of_the_same_bits_helps() -> None:
    """On a device that holds just a rank of 256: sharding on 128 does not fit, so the fewest ranks that do are named."""
    plan = plan_of()
    has = plan_of("strategy=shard", "batch.D=256").memory.device_bytes
    remedies = by_name(fitting_of(plan.shape, plan.setting, plan.batch, has))
    remedy = remedies["D+shard"]

    assert not remedies["shard"].fits
    assert (remedy.settings, remedy.same_bits, remedy.fits) == (("batch.D=256", "strategy=shard"), True, True)
    assert remedy.bytes == has
    assert str(remedy.price[0]) == "2 times as many devices"


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
    assert remarks(plan_of(config=name)) == []
