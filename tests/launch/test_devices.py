"""GPUs that do not answer, that are divided, that NVML does not know: no command breaks, none silently takes the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NVML = """
class NVMLError(Exception):
    pass

COUNT, LOST, DIVIDED, INIT = {count}, {lost}, {divided}, {init!r}

def nvmlInit():
    if INIT: raise NVMLError(INIT)
def nvmlShutdown():
    if LOST: raise NVMLError("GPU is lost")
def nvmlDeviceGetCount(): return COUNT
def nvmlDeviceGetHandleByIndex(index):
    if index in LOST: raise NVMLError("GPU is lost")
    return index
def nvmlDeviceGetName(handle): return "H100"
def nvmlDeviceGetMemoryInfo(handle): return type("Memory", (), {{"total": 80 * 10**9}})
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetUUID(handle): return f"GPU-{{handle}}aaa-bbb"
def nvmlDeviceGetMigMode(handle):
    if handle in DIVIDED: return (1, 1)
    raise NVMLError("Not Supported")
def nvmlDeviceGetTotalEnergyConsumption(handle): return 1000
"""

TORCH = """
from types import SimpleNamespace
__version__ = "9.9"
def init(): raise RuntimeError("CUDA driver initialization failed\\nmore")
version = SimpleNamespace(cuda="13.0")
cuda = SimpleNamespace(device_count=lambda: {count}, init=init)
"""

ASK = """
import json
from llmrun.launch.devices import usable_gpus
from llmrun.launch.energy import EnergyMeter
from llmrun.machine import device_name, visible_gpus, host_facts

usable = usable_gpus()
facts = host_facts()
print(json.dumps({
    "usable": usable.count, "problem": usable.problem, "nvml": len(visible_gpus()), "name": device_name("cuda"),
    "gpus": [gpu["index"] for gpu in facts["gpus"]], "gpu_problem": facts["gpu_problem"],
    "joules": EnergyMeter("cuda", 2).joules(),
}))
"""


def drivers(place: Path, torch_count=0, *, count=4, lost=(), divided=(), init=None, nvml=True) -> Path:
    """A directory with the binding of NVML, as the driver of such a machine answers, and a torch that counts."""
    place.mkdir()
    text = NVML.format(count=count, lost=tuple(lost), divided=tuple(divided), init=init)
    (place / "pynvml.py").write_text(text if nvml else "raise ImportError('there is no NVML')")
    (place / "torch.py").write_text(TORCH.format(count=torch_count))
    return place


def ask(place: Path, visible: str | None) -> dict:
    """What a process says about its GPUs there."""
    environment = {**os.environ, "PYTHONPATH": str(place)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    ended = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


LOST = "GPU 1 does not answer: GPU is lost"
MIG = "GPU 0 is divided (MIG)"


@pytest.mark.parametrize(
    ("machine", "visible", "torch_count", "usable", "nvml", "problem"),
    [
        ({}, "0,1", 0, 2, 2, None),
        ({"lost": [1]}, "0,2", 0, 2, 2, None),
        ({"lost": [1]}, "0,1,2", 2, 2, 1, None),
        ({"lost": [1]}, "0,1,2", 0, 0, 1, LOST),
        ({"lost": [1]}, "GPU-1aaa", 0, 0, 0, LOST),
        ({"lost": [0, 1, 2, 3]}, "0", 0, 0, 0, "GPU 0 does not answer"),
        ({"divided": [0]}, "0", 1, 1, 0, None),
        ({"divided": [0]}, "0", 0, 0, 0, MIG),
        ({"divided": [0]}, "MIG-12ab", 1, 1, 0, None),
        ({"divided": [0]}, "MIG-12ab", 0, 0, 0, "MIG-12ab is an instance"),
        ({"init": "Driver Not Loaded"}, "0", 3, 3, 0, None),
        ({"init": "Driver Not Loaded"}, "0", 0, 0, 0, "CUDA driver initialization failed"),
        ({"nvml": False}, "0,1", 2, 2, 0, None),
        ({"nvml": False}, "0,1", 0, 0, 0, "NVML"),
        ({"nvml": False}, None, 5, 0, 0, None),
        ({"nvml": False}, "", 5, 0, 0, None),
        ({}, "-1", 5, 0, 0, None),
        ({}, "7", 0, 0, 0, "CUDA driver initialization failed"),
    ],
)
def test_gpus_are_counted_by_whoever_can(
    tmp_path, machine, visible, torch_count, usable, nvml, problem
) -> None:
    """NVML if it knows, else torch; nothing raises, and what is not usable has a reason."""
    found = ask(drivers(tmp_path / "d", torch_count, **machine), visible)

    assert (found["usable"], found["nvml"], len(found["gpus"])) == (usable, nvml, nvml)
    assert (found["problem"] is None) == (problem is None)
    assert problem is None or problem in found["problem"]
    assert found["name"] == ("H100" if nvml else "unknown GPU")
    assert (found["joules"] is None) == (nvml < 2)


CONFIG = """
T_tokens: 20Ki
model: {n_layers: 1, d_model: 32, n_heads: 2}
batch: {GB_tok: 1Ki, μ_tok: 256, L_ctx: 64, D: 2, V: 4}
"""


@pytest.fixture
def place(tmp_path, dataset_of_session):
    """A working directory whose config leaves the device open."""
    (tmp_path / "c.yaml").write_text(CONFIG + f"data: {{path: {dataset_of_session}}}\n")
    return tmp_path


def llmrun(place: Path, path: Path, *words: str, visible: str = "0") -> subprocess.CompletedProcess[str]:
    """A command line on a machine with the drivers of `path`, where a job may use the GPUs `visible`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "CUDA_VISIBLE_DEVICES": visible}
    return subprocess.run(
        [sys.executable, "-m", "llmrun", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_training_does_not_fall_back_to_the_cpu(place, device) -> None:
    """`auto` and `cuda` refuse with the driver's reason, exit 3, and leave nothing behind."""
    path = drivers(place / "d", lost=[0])
    ended = llmrun(place, path, "train", "c.yaml", "--json", "--set", f"hardware.device={device}")
    error = json.loads(ended.stderr[ended.stderr.index("{") :])

    assert (ended.returncode, error["exit_code"], error["where"]["key"]) == (3, 3, "hardware.device")
    assert "GPU 0 does not answer: GPU is lost" in error["message"]
    assert not (place / "runs").exists()


def test_a_plan_warns_and_goes_on(place) -> None:
    """A plan needs no GPU: one that does not answer is a warning, and costs no question to torch."""
    path = drivers(place / "d", lost=[0])
    (path / "torch.py").write_text("raise RuntimeError('a plan asks no torch')")
    ended = llmrun(place, path, "plan", "c.yaml", "--json")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["D"] == 2
    assert "GPU is lost" in ended.stderr


def test_a_dead_gpu_does_not_end_a_run_on_the_cpu(project, monkeypatch) -> None:
    """`device: cpu` trains to its end and records the GPU's state; another machine's driver breaks nothing."""
    monkeypatch.syspath_prepend(str(drivers(project.path / "d", lost=[0])))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    ended = project.train()
    monkeypatch.delitem(sys.modules, "pynvml")

    machine = json.loads((project.run.provenance / "environment.json").read_text())["machine"]
    assert (ended.end.why, ended.end.warnings) == ("finished", ())
    assert machine["gpu_problem"] == "GPU 0 does not answer: GPU is lost"


def test_torch_has_the_last_word(project) -> None:
    """NVML lists GPUs that this build of torch cannot use: refused with both numbers, exit 3."""
    (project.path / "c.yaml").write_text(CONFIG + "data: {path: data}\n")
    path = drivers(project.path / "d")
    (path / "torch.py").unlink()
    ended = llmrun(project.path, path, "train", "c.yaml", "--json", visible="0,1")
    error = json.loads(ended.stderr[ended.stderr.index("{") :])

    assert (ended.returncode, error["where"]["key"]) == (3, "hardware.device")
    assert "need 2 GPUs" in error["message"]
    assert "can use 0" in error["message"]
    assert list((project.path / "runs").glob("*")) == []
