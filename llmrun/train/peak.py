"""The peak of a rank's memory, measured from just before the model is built."""

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
_KIB = 1024


class PeakMemory:
    """Counts from where it is made.

    CUDA: the most that torch's allocator had given out at once on the device.
    CPU:  the process's peak resident memory, without its file-backed and shared pages (code, datasets), less the
          anonymous memory that it had at the start (interpreter, torch).  What malloc keeps unused is in it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at_start = {} if device.type == "cuda" else resident()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int | None:
        """Bytes; None where the system does not tell, or where the peak lies before the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        start, now = self._at_start, resident()
        if not start or not now or now["VmHWM"] == start["VmHWM"]:
            return None
        return now["VmHWM"] - now["RssFile"] - now["RssShmem"] - start["RssAnon"]


def resident() -> dict[str, int]:
    """VmHWM, RssAnon, RssFile, RssShmem of this process in bytes (proc(5)); empty where the system has none."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    wanted = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
    return {name: int(values[name].split()[0]) * _KIB for name in wanted} if "RssAnon" in values else {}
