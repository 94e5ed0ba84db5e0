"""What the machine says, checked against the system's own tools."""

import math
import os
import subprocess
import sys
import time

import psutil
import pytest

from llmrun.cgroups import cgroup_limits
from llmrun.machine import (
    batch_job_id,
    cpus_usable,
    host_facts,
    memory_bytes,
    process_start,
    visible_gpus,
)


def test_memory_and_cpus_agree_with_psutil():
    """Two ways to ask one question; a control group that this test runs in may allow less."""
    limits = cgroup_limits()
    machine = psutil.virtual_memory().total
    assert memory_bytes() == pytest.approx(min(machine, limits.memory_bytes or machine), rel=0.01)
    cpus = len(psutil.Process().cpu_affinity())
    assert cpus_usable() == max(1, min(cpus, math.ceil(limits.cpus or cpus)))


@pytest.mark.parametrize("hidden", ["", "-1", " , ", "no-such-gpu"])
def test_hidden_gpus_are_not_counted(monkeypatch, hidden):
    """CUDA_VISIBLE_DEVICES that shows nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)

    assert len(visible_gpus()) == 0


class FakeDriver:
    """NVML with three GPUs, as its binding answers."""

    class NVMLError(Exception):
        """Never raised here."""

    def __getattr__(self, name):
        index_of = lambda handle: handle  # noqa: E731
        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 3,
            "nvmlDeviceGetHandleByIndex": index_of,
            "nvmlDeviceGetName": lambda handle: f"GPU {handle}".encode(),
            "nvmlDeviceGetMemoryInfo": lambda _: type("Memory", (), {"total": 80 * 10**9}),
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}aaa-bbb",
            "nvmlDeviceGetMigMode": lambda _: (0, 0),
        }
        return answers[name]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["GPU 0", "GPU 1", "GPU 2"]),
        ("2,0", ["GPU 2", "GPU 0"]),
        ("GPU-1aaa", ["GPU 1"]),
        ("0,7,1", ["GPU 0"]),
    ],
)
def test_visible_gpus_follow_cudas_rules(monkeypatch, visible, names):
    """By index, by the beginning of a UUID, in the given order, up to the first unknown entry."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeDriver())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert [gpu["name"] for gpu in host_facts()["gpus"]] == names


def test_the_batch_job_is_known(monkeypatch):
    """Slurm's id, where there is one."""
    monkeypatch.setenv("SLURM_JOB_ID", "99")

    assert batch_job_id() == "99"


def test_a_process_is_known_by_its_start():
    """The same for one process at any time, another for another, None for one that is gone or a zombie."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(child.pid)

    assert start == process_start(child.pid)
    assert start >= process_start(os.getpid())
    child.kill()
    deadline = time.monotonic() + 10
    while process_start(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start(child.pid) is None
    child.communicate()
    assert process_start(child.pid) is None


ORPHAN = """
import os, sys, time
from llmrun.machine import die_with_parent
child = os.fork()
if child == 0:
    os.setsid()
    die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_child_dies_with_its_parent(late):
    """After SIGKILL of the parent, and also where the parent was gone before the child could ask."""
    arguments = ["1"] if late else []
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, *arguments], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    if not late:
        time.sleep(0.3)
        assert process_start(child) is not None
        parent.kill()
    deadline = time.monotonic() + 10
    while process_start(child) is not None and time.monotonic() < deadline:
        time.sleep(0.02)

    assert process_start(child) is None
    parent.kill()
    parent.communicate()
