"""A run whose screen goes away and whose processes get all kinds of signals, through real torchrun."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from llmrun.launch.torchrun import WORKER_MODULE
from llmrun.storage.checkpoint.verification import newest_sound

CONFIG = """
name: demo
T_tokens: 20Mi
model: {n_layers: 1, d_model: 32, n_heads: 2, dropout: 0.1}
batch: {GB_tok: 512, μ_tok: 128, L_ctx: 64, D: 2, V: 4}
precision: fp32
data: {path: data, num_workers: 0}
eval: {every_steps: null}
checkpoint: {every_steps: null}
hardware: {device: cpu}
"""


@pytest.fixture
def place(tmp_path, dataset_of_session, monkeypatch):
    """A working directory outside any repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "data").symlink_to(dataset_of_session)
    (tmp_path / "demo.yaml").write_text(CONFIG)
    return tmp_path


def start(place: Path, line: str, **options) -> subprocess.Popen[bytes]:
    """A line of bash with $LLMRUN, in a process group of its own."""
    environment = {**os.environ, "LLMRUN": f"{sys.executable} -m llmrun", "OMP_NUM_THREADS": "1"}
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.Popen(command, cwd=place, env=environment, start_new_session=True, **options)


def wait_for_step(place: Path, step: int, name: str = "demo") -> None:
    """Wait until metrics.jsonl has a step."""
    metrics = place / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert time.monotonic() < deadline, "no step came"
        time.sleep(0.1)


def record(place: Path, name: str = "demo") -> dict:
    """What run.json says."""
    return json.loads((place / "runs" / name / "run.json").read_text())


def launcher_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The launcher below a shell, or the process itself."""
    shell = psutil.Process(process.pid)
    return next((below for below in shell.children() if "llmrun" in below.cmdline()), shell)


def assert_saved_once(place: Path, name: str = "demo") -> None:
    """Preempted, with one checkpoint, sound, of the last step."""
    segment = record(place, name)["segments"][-1]
    checkpoint, damages = newest_sound(place / "runs" / name / "checkpoints")

    assert segment["why"] == "preempted"
    assert segment["to_step"] == checkpoint.step > 0
    assert damages == []
    assert len(list((place / "runs" / name / "checkpoints").glob("step-*"))) == 1


def test_stdout_piped_to_a_reader_that_exits_and_stderr_on_a_full_disk(place):
    """Trained on and saved, exit 75, and run.json says that the screen was lost."""
    process = start(place, "$LLMRUN train demo.yaml --run demo 2>/dev/full | true")
    wait_for_step(place, 5)
    launcher_of(process).terminate()

    assert process.wait(60) == 75
    assert_saved_once(place)
    warnings = record(place)["segments"][-1]["remarks"]
    assert any("No space left on device" in warning for warning in warnings)
    assert any("Broken pipe" in warning for warning in warnings)


def test_a_terminal_that_closes(place):
    """SIGHUP and a dead screen at once: one save, exit 75, a complete run.json."""
    controller, terminal = pty.openpty()
    process = start(
        place,
        "export TERM=xterm; exec $LLMRUN train demo.yaml --run demo",
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    drain = threading.Thread(target=read_until_closed, args=(controller, place), daemon=True)
    drain.start()
    wait_for_step(place, 5)
    (place / "close").touch()
    drain.join(10)
    process.send_signal(signal.SIGHUP)

    assert process.wait(60) == 75
    assert_saved_once(place)
    assert any("Input/output error" in warning for warning in record(place)["segments"][-1]["remarks"])


def read_until_closed(controller: int, place: Path) -> None:
    """The other side of a terminal: reads until the file `close` appears, then hangs up."""
    os.set_blocking(controller, False)
    while not (place / "close").exists():
        try:
            os.read(controller, 65536)
        except OSError:
            time.sleep(0.02)
    os.close(controller)


@pytest.mark.slow
def test_closed_descriptors(place):
    """No run file becomes standard output; the run ends as it should."""
    process = start(place, "exec $LLMRUN train demo.yaml --run demo --until 3 >&- 2>&- 0<&-")

    assert process.wait(120) == 0
    assert record(place)["status"] == "reached"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["group", "agent", "worker", "everybody"])
def test_a_signal_to_other_processes_of_a_run(place, whom):
    """The launcher's process group, the agent, one worker, or all of a job's processes: one save, exit 75."""
    process = start(place, "exec $LLMRUN train demo.yaml --run demo", stderr=subprocess.DEVNULL)
    wait_for_step(place, 5)
    (agent,) = psutil.Process(process.pid).children()
    workers = [child for child in agent.children() if WORKER_MODULE in child.cmdline()]
    if whom == "group":
        os.killpg(process.pid, signal.SIGINT)
    elif whom == "agent":
        agent.send_signal(signal.SIGQUIT)
    elif whom == "worker":
        workers[1].send_signal(signal.SIGXCPU)
    else:
        for one in (process, agent, *workers):
            one.send_signal(signal.SIGUSR2)

    assert process.wait(60) == 75
    assert_saved_once(place)


@pytest.mark.slow
def test_signals_while_workers_start(place):
    """Workers that have no handlers yet keep the signal until they have: exit 75, nothing killed."""
    process = start(place, "exec $LLMRUN train demo.yaml --run demo", stderr=subprocess.DEVNULL)
    launcher = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    workers: list[psutil.Process] = []
    while not workers:
        assert time.monotonic() < deadline
        with suppress(psutil.Error):
            workers = [
                one for one in launcher.children(recursive=True) if WORKER_MODULE in one.cmdline()[2:4]
            ]
        time.sleep(0.005)
    for worker in workers:
        worker.terminate()

    assert process.wait(60) == 75
    assert record(place)["segments"][-1]["why"] == "preempted"


@pytest.mark.slow
def test_timeout_of_coreutils_signals_twice(place):
    """`timeout` signals its child and then the group: one request, not a second that stops at once."""
    process = start(place, "timeout 60 $LLMRUN train demo.yaml --run demo", stderr=subprocess.DEVNULL)

    assert process.wait(120) == 124
    assert record(place)["segments"][-1]["why"] == "preempted"
