"""Energy counters: real files in RAPL's layout, and what is not told is unknown."""

from llmrun.launch.energy import EnergyMeter, package_counters, used


def write(zone, microjoules: str) -> None:
    """One zone of RAPL."""
    zone.mkdir(exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_are_added_and_their_parts_are_not(tmp_path) -> None:
    """Two packages of 2 J and 3 J; the cores of the first are in it already."""
    write(tmp_path / "intel-rapl:0", "2000000")
    write(tmp_path / "intel-rapl:0:0", "1500000")
    write(tmp_path / "intel-rapl:1", "3000000")

    assert package_counters(tmp_path) == {"intel-rapl:0": 2.0, "intel-rapl:1": 3.0}


def test_what_cannot_be_read_is_unknown(tmp_path) -> None:
    """No counter, a damaged one, one that went back or away: None, never 0."""
    assert package_counters(tmp_path) == {}
    write(tmp_path / "intel-rapl:0", "many")
    assert package_counters(tmp_path) == {}
    assert used({}, {}) is None
    assert used({"a": 5.0}, {"a": 4.0}) is None
    assert used({"a": 5.0}, {}) is None
    assert used({"a": 5.0, "b": 1.0}, {"a": 7.5, "b": 1.0}) == 2.5


def test_a_machine_without_gpus_counts_none() -> None:
    """Whatever this machine has: a number that is not negative, or unknown."""
    joules = EnergyMeter("cpu", 1).joules()

    assert joules is None or joules >= 0
