"""`llmrun train` and `llmrun resume` as a user types them, through real torchrun."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

CONFIG = """
name: demo
T_tokens: 20Mi
model: {n_layers: 1, d_model: 32, n_heads: 2, dropout: 0.1}
batch: {GB_tok: 512, μ_tok: 128, L_ctx: 64, D: 2, V: 4}
precision: fp32
data: {path: data, num_workers: 1}
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


def llmrun(place, *arguments) -> subprocess.Popen:
    """Start a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmrun", *arguments],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_step(place, step: int) -> None:
    """Wait until metrics.jsonl has a step."""
    metrics = place / "runs" / "demo" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert time.monotonic() < deadline, "no step came"
        time.sleep(0.1)


def below(process) -> list[psutil.Process]:
    """All processes of a command."""
    return psutil.Process(process.pid).children(recursive=True)


def test_train_is_preempted_resumed_and_killed_and_goes_on(place):
    """SIGTERM: exit 75, saved.  SIGKILL: no orphan.  A resume in the same instant: goes on, and proves what it recomputes."""
    line = ["train", "demo.yaml", "--run", "demo"]
    first = llmrun(place, *line)
    assert first.stdout.readline() == "run: runs/demo\n"
    wait_for_step(place, 3)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 75, err
    assert "error: preempted after step" in err
    assert "hint: `llmrun resume runs/demo` continues" in err
    record = json.loads((place / "runs" / "demo" / "run.json").read_text())
    step = record["segments"][0]["to_step"]
    assert (record["status"], step >= 3) == ("preempted", True)
    assert (place / "runs" / "demo" / "checkpoints" / f"step-{step:08d}").is_dir()

    second = llmrun(place, *line)
    wait_for_step(place, step + 3)
    processes = below(second)
    assert len(processes) >= 5, "agent, two workers, two loaders"
    second.kill()
    third = llmrun(place, "resume", "demo", "--until", str(step + 10), "--D", "1", "--json")
    second.communicate()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    out, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    closing = json.loads(out)
    assert (closing["status"], closing["from_step"], closing["step"], closing["D"]) == (
        "reached",
        step,
        step + 10,
        1,
    )
    assert closing["proven_steps"] >= 3
    assert "segment 2 " in err
    assert "run: runs/demo\n" in err


def test_a_worker_that_fails_is_told_in_its_own_words(place):
    """A damaged shard found while training: exit 4, the file's name, no traceback."""
    (place / "data").unlink()
    (place / "text.txt").write_text("some words to learn\n" * 4000)
    subprocess.run(
        [sys.executable, "-m", "llmrun", "data", "prepare", "text.txt", "--out", "data", "--tokenizer", "byte"],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip
    shard = next((place / "data").glob("train*.bin"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    failing = llmrun(place, "train", "demo.yaml", "--run", "demo")
    _, err = failing.communicate(timeout=120)

    assert failing.returncode == 4, err
    assert shard.name in err
    assert "Traceback" not in err
    assert "hint: `llmrun resume runs/demo`" in err
