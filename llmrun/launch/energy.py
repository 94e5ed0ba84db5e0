"""Energy that devices used, from their own counters."""

from collections.abc import Mapping
from pathlib import Path

from llmrun.machine import nvml, visible_gpus

RAPL = Path("/sys/class/powercap")
MICRO, MILLI = 1e-6, 1e-3


class EnergyMeter:
    """Measures the energy used since it was created.

    cuda: by the GPUs of ranks 0 … D-1 on this host (NVML's counter of whole boards, since Volta).
    cpu:  by the processor packages of this host (RAPL), with everything that ran on them, if the counters are readable.
    """

    def __init__(self, device: str, D: int) -> None:
        self._device, self._D = device, D
        self._at_start = counters(device, D)

    def joules(self) -> float | None:
        """Joules since the start; None without a counter, or if one went back (a restart, an overflow)."""
        return used(self._at_start, counters(self._device, self._D))


def used(start: Mapping[str, float], now: Mapping[str, float]) -> float | None:
    """The sum of the counters' increases."""
    if not start or start.keys() != now.keys():
        return None
    rises = [now[name] - start[name] for name in start]
    return sum(rises) if min(rises) >= 0 else None


def counters(device: str, D: int) -> dict[str, float]:
    """Joules by counter; empty if none can be read."""
    return gpu_counters(D) if device == "cuda" else package_counters(RAPL)


def gpu_counters(D: int) -> dict[str, float]:
    """NVML's energy counters of the first D visible GPUs; empty unless NVML knows all of them."""
    indices = [gpu.index for gpu in visible_gpus()][:D]
    if len(indices) < D:
        return {}
    with nvml() as driver:
        if driver is None:
            return {}
        try:
            handles = [driver.nvmlDeviceGetHandleByIndex(index) for index in indices]
            energies = [driver.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
        except driver.NVMLError:
            return {}
    return {str(index): energy * MILLI for index, energy in zip(indices, energies, strict=True)}


def package_counters(directory: Path) -> dict[str, float]:
    """RAPL's counters of whole packages (`intel-rapl:0`, not its parts `intel-rapl:0:0`)."""
    found = {}
    for zone in sorted(directory.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue
        try:
            found[zone.name] = int((zone / "energy_uj").read_text(encoding="ascii")) * MICRO
        except (OSError, ValueError):
            return {}
    return found
