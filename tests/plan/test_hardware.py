"""The hardware table and what is derived from it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import InputError, Place
from llmrun.plan.costs import Costs, Prices, costs_of
from llmrun.plan.hardware import accelerator_named, hardware_table
from llmrun.plan.note import Note

PRICES = Prices(PUE=1.15, yuan_per_kWh=0.6, yuan_per_GPU_hour=18.0)


def test_every_row_is_complete_and_sourced() -> None:
    """Each row has memory, bandwidth and a source; rates and power are positive or unknown, never 0."""
    for row in hardware_table().values():
        assert row.source
        assert row.memory_GB > 0
        assert row.bandwidth_GBps > 0
        assert all(value is None or value > 0 for value in (row.bf16_TFLOPs, row.fp32_TFLOPs, row.TDP_W))


def test_dense_rates_of_known_rows() -> None:
    """The H100's 1,979 TFLOP/s are its sparse rate; half of it is dense."""
    h100 = accelerator_named("H100-SXM")

    assert h100.peak_FLOPs("bf16") == 989.5e12
    assert h100.peak_FLOPs("fp32") == 67e12
    assert h100.memory_bytes == 80 * 10**9
    assert accelerator_named("A100-80G-SXM").peak_FLOPs("bf16") == 312e12


def test_a_v100_has_no_bf16() -> None:
    """A V100's tensor rate is fp16: its bf16 peak is unknown, not 125."""
    assert accelerator_named("V100-SXM2-32G").peak_FLOPs("bf16") is None


def test_a_row_is_found_whatever_its_case() -> None:
    """`h100-sxm` is H100-SXM."""
    assert accelerator_named("h100-sxm").name == "H100-SXM"


def test_an_unknown_row_names_the_nearest_and_all() -> None:
    """A misspelt accelerator is refused with the nearest row, the list, and the place in the config."""
    with pytest.raises(InputError) as caught:
        accelerator_named("H100SXM", Place("gpt.yaml", 9, "hardware.accelerator"))

    assert "H100SXM" in caught.value.message
    assert str(caught.value.where) == "gpt.yaml:9  hardware.accelerator"
    assert "H100-SXM" in caught.value.hints[0]
    assert all(name in caught.value.hints[1] for name in hardware_table())


def test_costs_by_hand() -> None:
    """One hour of 8 H100 at MFU 0.5: 8 GPU-hours, 0.7 kW each, times PUE."""
    FLOPs = round(8 * 989.5e12 * 0.5 * 3600)
    costs = costs_of(
        FLOPs,
        8,
        idle_share=0.0,
        accelerator=accelerator_named("H100-SXM"),
        precision="bf16",
        mfu=0.5,
        prices=PRICES,
    )

    assert costs.time_hours == pytest.approx(1.0)
    assert costs.GPU_hours == pytest.approx(8.0)
    assert costs.energy_kWh == pytest.approx(0.7 * 8 * 1.15)
    assert costs.yuan_energy == pytest.approx(0.7 * 8 * 1.15 * 0.6)
    assert costs.yuan_GPU == pytest.approx(8 * 18.0)
    assert costs.unknown == {}


def test_what_is_unknown_is_none_with_its_reason() -> None:
    """Without an accelerator, a peak, a TDP or a price, figures are None and say why."""
    free = Prices(1.0, 0.6, None)

    def costs(name: str | None, precision: str = "bf16") -> Costs:
        row = accelerator_named(name) if name else None
        return costs_of(10**20, 8, idle_share=0.0, accelerator=row, precision=precision, mfu=0.4, prices=free)

    without, peakless, powerless = costs(None), costs("V100-SXM2-32G"), costs("H20")
    assert without.time_hours is None
    assert without.unknown["yuan_GPU"] == Note("not_set", {"key": "hardware.accelerator"})
    assert peakless.unknown["time_hours"] == Note("no_peak", {"precision": "bf16", "name": "V100-SXM2-32G"})
    assert powerless.time_hours is not None
    assert powerless.unknown == {
        **dict.fromkeys(("energy_kWh", "tCO2", "yuan_energy"), Note("no_TDP", {"name": "H20"})),
        "yuan_GPU": Note("not_set", {"key": "hardware.yuan_per_GPU_hour"}),
    }


@given(
    FLOPs=st.integers(1, 10**27),
    D=st.integers(1, 10**5),
    mfu=st.floats(0.01, 1.0),
    idle=st.floats(0.0, 0.9),
    name=st.sampled_from(sorted(hardware_table())),
    precision=st.sampled_from(["fp32", "bf16"]),
)
def test_costs_are_finite_and_monotone(
    FLOPs: int, D: int, mfu: float, idle: float, name: str, precision: str
) -> None:
    """For any run, known costs are finite and positive, more FLOPs cost more, and waiting costs more."""
    row = accelerator_named(name)

    def hours(work: int, idle_share: float) -> float | None:
        return costs_of(
            work, D, idle_share=idle_share, accelerator=row, precision=precision, mfu=mfu, prices=PRICES
        ).GPU_hours

    here, more, waiting = hours(FLOPs, 0.0), hours(2 * FLOPs, 0.0), hours(FLOPs, idle)
    if row.peak_FLOPs(precision) is None:
        assert here is more is waiting is None
    else:
        assert here is not None
        assert more is not None
        assert waiting is not None
        assert math.isfinite(more)
        assert 0 < here < more
        assert waiting >= here
