"""What this machine is: GPUs, CPU, memory, processes.  No torch."""

import ctypes
import getpass
import os
import platform
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

AGENT_PID = "LLMRUN_AGENT_PID"
"""The variable that tells each worker whose child it is, so that it can see whether that is gone already."""

UNINTERRUPTIBLE = "llmrun-uninterruptible"
"""Begins the name of a thread that may be at work when the process has to end: nothing waits for it."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver names it."""

    index: int
    name: str
    memory_bytes: int
    driver: str


def gpu_count() -> int:
    """GPUs that a process started here may use: NVML's, cut down by CUDA_VISIBLE_DEVICES; 0 without a driver."""
    return len(visible_gpus())


def visible_gpus() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; all of them where it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip(" ,"):
        return []
    with nvml() as driver:
        if driver is None:
            return []
        found = [_gpu(driver, index) for index in range(driver.nvmlDeviceGetCount())]
    if visible is None:
        return [gpu for gpu, _ in found]
    return list(_chosen(visible, found))


def _gpu(driver: Any, index: int) -> tuple[Gpu, str]:
    """One GPU and its UUID."""
    handle = driver.nvmlDeviceGetHandleByIndex(index)
    gpu = Gpu(
        index=index,
        name=_text(driver.nvmlDeviceGetName(handle)),
        memory_bytes=int(driver.nvmlDeviceGetMemoryInfo(handle).total),
        driver=_text(driver.nvmlSystemGetDriverVersion()),
    )
    return gpu, _text(driver.nvmlDeviceGetUUID(handle))


def _chosen(visible: str, found: list[tuple[Gpu, str]]) -> Iterator[Gpu]:
    """The GPUs that CUDA would show: by index or the beginning of a UUID, up to the first unknown entry."""
    for entry in visible.split(","):
        name = entry.strip()
        matches = [gpu for gpu, uuid in found if name == str(gpu.index) or (name and uuid.startswith(name))]
        if not matches:
            return
        yield matches[0]


def _text(value: str | bytes) -> str:
    """NVML's strings, which are bytes in older bindings."""
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def nvml() -> Iterator[Any | None]:
    """NVML's module, initialised; None where there is no driver or no binding."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


NUMERIC_CPU_FLAGS = re.compile(r"(avx|amx|sse|ssse|fma|f16c|sve|asimd|bf16|i8mm|neon).*")
"""Instruction sets between which libraries choose their kernels."""


def _cpu_facts() -> dict[str, str]:
    """What the kernel says of the (last) processor; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in values.items()}


def cpu_model() -> str | None:
    """The processor's name as the kernel gives it; None where it gives none."""
    facts = _cpu_facts()
    return facts.get("model name") or facts.get("Model") or platform.processor() or None


def cpu_vendor() -> str | None:
    """The processor's maker: libraries choose kernels by it."""
    facts = _cpu_facts()
    return facts.get("vendor_id") or facts.get("CPU implementer") or None


def cpu_flags() -> list[str]:
    """The vector instruction sets that the processor offers, sorted."""
    facts = _cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return sorted({flag for flag in flags if NUMERIC_CPU_FLAGS.fullmatch(flag)})


def cpus_usable() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def device_name(device: str) -> str:
    """The first device of a kind (`cuda` or `cpu`) as its driver or the kernel names it."""
    gpus = visible_gpus() if device == "cuda" else []
    return gpus[0].name if gpus else cpu_model() or "unknown CPU"


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def host_name() -> str:
    """The name of this host."""
    return socket.gethostname()


def user_name() -> str:
    """The user who runs this process; the numeric id where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def batch_job_id() -> str | None:
    """The id that the batch system gave to the job this process belongs to (Slurm, PBS, LSF)."""
    names = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def boot_id() -> str | None:
    """Changes at each start of the machine; None where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def process_start(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None where there is no such live process.

    With the PID it names a process for ever: PIDs are used again.  A zombie counts as gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""The name of the machine's own PID namespace on every Linux: PIDs in any other are those of a container."""


def pid_namespace() -> str | None:
    """The name of the namespace in which our PIDs are unique; None if the kernel does not tell."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, distinct from every other on any machine.

    boot, pid_namespace: in which `pid` and `start` mean something; None if unknown.
    start: clock ticks since boot.
    """

    host: str
    boot: str | None
    pid_namespace: str | None
    pid: int
    start: int

    @property
    def space(self) -> tuple[str, str | None, str | None]:
        """Where the PID is unique."""
        return self.host, self.boot, self.pid_namespace

    @property
    def is_alive(self) -> bool | None:
        """Whether the process lives; None if that cannot be known here: another machine, boot or container."""
        here = (host_name(), boot_id(), pid_namespace())
        if None in here or self.space != here:
            return None
        return process_start(self.pid) == self.start


def this_process_identity() -> ProcessIdentity:
    """The calling process."""
    start = process_start(os.getpid())
    assert start is not None
    return ProcessIdentity(host_name(), boot_id(), pid_namespace(), os.getpid(), start)


def die_with_parent(parent: int) -> None:
    """Let the kernel SIGKILL this process when the thread that started it ends, and close the race.

    parent: the PID that started us; where it is gone already, this process ends at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def host_facts() -> dict[str, Any]:
    """The machine for the record: host, system, processor, memory, GPUs.  Never digested."""
    return {
        "host": host_name(),
        "system": platform.platform(),
        "python": sys.version,
        "cpu_model": cpu_model(),
        "cpus_usable": cpus_usable(),
        "memory_bytes": memory_bytes(),
        "gpus": [vars(gpu) for gpu in visible_gpus()],
        "batch_job_id": batch_job_id(),
    }
