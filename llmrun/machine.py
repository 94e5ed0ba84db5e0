"""Facts of this machine: GPUs (NVML), processor and memory, host, processes and limits.  No torch."""

import ctypes
import getpass
import math
import os
import platform
import re
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrun.cgroups import cgroup_limits

# Variables between the launcher and its child processes

ANSWER = "LLMRUN_ANSWER_FD"
"""Environment variable with the file descriptor on which a probe answers."""

RANKS = "LLMRUN_RANKS"
"""Environment variable with the number of ranks on this host."""

MODEL = "LLMRUN_MODEL"
"""Environment variable with the user's own model as JSON: how it is called, and where it is imported from."""

AGENT_PID = "LLMRUN_AGENT_PID"
"""Environment variable with the PID of the agent, by which a worker sees whether the agent has already ended."""

UNINTERRUPTIBLE = "llmrun-uninterruptible"
"""Prefix of the names of threads that may still be running when the process has to end; nothing waits for them."""


# GPUs


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver describes it."""

    index: int
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class GpuSurvey:
    """The GPUs that a process started here may use, according to NVML.

    gpus:    in the order of CUDA_VISIBLE_DEVICES, up to the first that NVML cannot describe.
    problem: why these may not be all, or differ from those of CUDA; None if they are certain.
    """

    gpus: tuple[Gpu, ...]
    problem: str | None = None


def visible_gpus() -> list[Gpu]:
    """The GPUs in CUDA_VISIBLE_DEVICES, in its order; all GPUs if it is not set, none without a driver.  Never raises."""
    return list(survey_gpus().gpus)


def survey_gpus() -> GpuSurvey:
    """Ask NVML for the visible GPUs.  Never raises; a GPU that does not answer is the `problem` of the survey."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and _hides_all(visible):
        return GpuSurvey(())
    with nvml() as driver:
        if driver is None:
            return GpuSurvey((), "cannot use NVML, the library of the NVIDIA driver")
        try:
            found = [_described(driver, index) for index in range(driver.nvmlDeviceGetCount())]
        except driver.NVMLError as error:
            return GpuSurvey((), f"cannot list the GPUs with NVML: {error}")
    if visible is None:
        return _first_sound(found)
    return _chosen(visible, found)


@dataclass(frozen=True)
class _Described:
    """NVML's description of the GPU with one index.  gpu: None if it does not answer."""

    gpu: Gpu | None
    uuid: str
    problem: str | None


def _described(driver: Any, index: int) -> _Described:
    """One GPU, its UUID, and why CUDA may show something else, if it may."""
    try:
        handle = driver.nvmlDeviceGetHandleByIndex(index)
        gpu = Gpu(
            index=index,
            name=_text(driver.nvmlDeviceGetName(handle)),
            memory_bytes=int(driver.nvmlDeviceGetMemoryInfo(handle).total),
            driver=_text(driver.nvmlSystemGetDriverVersion()),
        )
        uuid = _text(driver.nvmlDeviceGetUUID(handle))
    except driver.NVMLError as error:
        return _Described(None, "", f"GPU {index} does not answer: {error}")
    problem = f"GPU {index} is divided (MIG)" if _is_divided(driver, handle) else None
    return _Described(gpu, uuid, problem)


def _is_divided(driver: Any, handle: Any) -> bool:
    """Whether a GPU is in MIG mode, in which CUDA shows its instances instead."""
    try:
        current, _ = driver.nvmlDeviceGetMigMode(handle)
    except (driver.NVMLError, AttributeError):  # a GPU or a binding without MIG
        return False
    return bool(current)


def _first_sound(found: list[_Described]) -> GpuSurvey:
    """The GPUs in order, up to the first with a problem."""
    gpus: list[Gpu] = []
    for entry in found:
        if entry.problem is not None or entry.gpu is None:
            return GpuSurvey(tuple(gpus), entry.problem)
        gpus.append(entry.gpu)
    return GpuSurvey(tuple(gpus))


def _chosen(visible: str, found: list[_Described]) -> GpuSurvey:
    """The GPUs that CUDA would show: by index or prefix of a UUID, up to the first unknown entry."""
    wanted: list[_Described] = []
    silent = next((entry.problem for entry in found if entry.gpu is None), None)
    for name in (entry.strip() for entry in visible.split(",")):
        matches = [
            each
            for index, each in enumerate(found)
            if name == str(index) or (name and each.uuid.startswith(name))
        ]
        if matches:
            wanted.append(matches[0])
            continue
        if name.startswith("MIG-"):
            wanted.append(_Described(None, name, f"{name} is an instance of a divided GPU (MIG)"))
        elif name.startswith("GPU-") and silent is not None:
            wanted.append(_Described(None, name, silent))
        break
    return _first_sound(wanted)


def _hides_all(visible: str) -> bool:
    """Whether CUDA_VISIBLE_DEVICES is empty or begins with -1, the usual ways to hide every GPU."""
    return visible.split(",", maxsplit=1)[0].strip() in ("", "-1")


def nvidia_is_visible() -> bool:
    """Whether NVIDIA GPUs are to be used: CUDA_VISIBLE_DEVICES names some, or is unset and there are device files."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return not _hides_all(visible)
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _text(value: str | bytes) -> str:
    """A string of NVML, which is bytes in older bindings."""
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def nvml() -> Iterator[Any | None]:
    """The module pynvml, initialised; None if there is no driver or no binding."""
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
        with suppress(pynvml.NVMLError):  # a driver that went away meanwhile
            pynvml.nvmlShutdown()


# Processor and memory

NUMERIC_CPU_FLAGS = re.compile(r"(avx|amx|sse|ssse|fma|f16c|sve|asimd|bf16|i8mm|neon).*")
"""Instruction sets by which libraries select their kernels."""


def _cpu_facts() -> dict[str, str]:
    """The entries of /proc/cpuinfo for the last processor; empty if it cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in values.items()}


def cpu_model() -> str | None:
    """The name of the processor; None if the kernel does not state it."""
    facts = _cpu_facts()
    return facts.get("model name") or facts.get("Model") or platform.processor() or None


def cpu_vendor() -> str | None:
    """The vendor of the processor, by which libraries select kernels; None if unknown."""
    facts = _cpu_facts()
    return facts.get("vendor_id") or facts.get("CPU implementer") or None


def cpu_flags() -> list[str]:
    """The vector instruction sets of the processor, sorted."""
    facts = _cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return sorted({flag for flag in flags if NUMERIC_CPU_FLAGS.fullmatch(flag)})


def cpus_usable() -> int:
    """Number of processors that this process may use, by its affinity and its control groups."""
    processors = len(os.sched_getaffinity(0))
    allowed = cgroup_limits().cpus
    return processors if allowed is None else max(1, min(processors, math.ceil(allowed)))


def device_name(device: str) -> str:
    """The name of the first device of a kind (`cuda` or `cpu`)."""
    if device == "cuda":
        gpus = visible_gpus()
        return gpus[0].name if gpus else "unknown GPU"
    return cpu_model() or "unknown CPU"


def memory_bytes() -> int:
    """Memory in bytes that this process may use: of the machine, or of its control group if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = cgroup_limits().memory_bytes
    return physical if allowed is None else min(physical, allowed)


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  fixed by the system
"""The file system of the semaphores of loader workers."""


def shared_memory_bytes() -> int:
    """Free bytes in /dev/shm.  Raises OSError if it cannot be written to."""
    import tempfile

    with tempfile.TemporaryFile(dir=SHARED_MEMORY):
        pass
    found = os.statvfs(SHARED_MEMORY)
    return found.f_bavail * found.f_frsize


# Host


def host_name() -> str:
    """The name of this host."""
    return socket.gethostname()


def user_name() -> str:
    """The user of this process; the numeric id if the user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def batch_job_id() -> str | None:
    """The id of the batch job of this process (Slurm, PBS, LSF); None outside a job."""
    names = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def boot_id() -> str | None:
    """The id of the current boot of the machine; None if the kernel does not show it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


# Processes


def process_start(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if there is no such process or it is a zombie.

    PIDs are reused; PID and start time together identify a process.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""The name of the host's PID namespace on every Linux; any other belongs to a container."""


def pid_namespace() -> str | None:
    """The name of the PID namespace of this process; None if the kernel does not show it."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies one process among those of all machines.

    boot, pid_namespace: in which `pid` and `start` are unique; None if unknown.
    start: clock ticks since boot.
    """

    host: str
    boot: str | None
    pid_namespace: str | None
    pid: int
    start: int

    @property
    def space(self) -> tuple[str, str | None, str | None]:
        """Host, boot and PID namespace, in which the PID is unique."""
        return self.host, self.boot, self.pid_namespace

    @property
    def is_alive(self) -> bool | None:
        """Whether the process exists; None if that cannot be seen from this machine, boot or container."""
        here = (host_name(), boot_id(), pid_namespace())
        if None in here or self.space != here:
            return None
        return process_start(self.pid) == self.start


def this_process_identity() -> ProcessIdentity:
    """The identity of this process."""
    start = process_start(os.getpid())
    assert start is not None
    return ProcessIdentity(host_name(), boot_id(), pid_namespace(), os.getpid(), start)


PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""


def die_with_parent(parent: int) -> None:
    """Make the kernel SIGKILL this process when the thread that started it ends.

    parent: the PID that started this process; if it has already ended, this process is killed at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


OPEN_FILES_WANTED = 65536
"""More open files than a rank needs.  A limit of a million slows down programs that close all possible descriptors."""


def raise_open_files_limit() -> None:
    """Raise the soft limit of open files towards OPEN_FILES_WANTED, within the hard limit; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def host_facts() -> dict[str, Any]:
    """Host, system, processor, memory and GPUs for environment.json; not digested."""
    survey = survey_gpus()
    return {
        "host": host_name(),
        "system": platform.platform(),
        "python": sys.version,
        "cpu_model": cpu_model(),
        "cpus_usable": cpus_usable(),
        "memory_bytes": memory_bytes(),
        "gpus": [vars(gpu) for gpu in survey.gpus],
        "gpu_problem": survey.problem if nvidia_is_visible() else None,
        "batch_job_id": batch_job_id(),
    }
