"""Stop signals while a segment is prepared: they act within a second, whatever is being waited for."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrun.run.lock import live_owner
from llmrun.storage.checkpoint.layout import step_name

SPARSE_BYTES = 60 << 30
"""Reading as many zeros takes a minute; they take no room."""


def start(project, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A real command in the project's directory."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmrun", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped_quickly(process: subprocess.Popen[str], number: signal.Signals, code: int = 75) -> str:
    """Send a signal; returns what was printed.  A busy machine adds to the second that it may take."""
    begun_s = time.monotonic()
    process.send_signal(number)
    _, words = process.communicate(timeout=30)

    assert process.returncode == code, words
    assert time.monotonic() - begun_s < 4, words
    assert "Traceback" not in words
    return words


def wait_until(holds, process: subprocess.Popen[str]) -> None:
    """Wait for something that the command does."""
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_open(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether the command reads a file just now."""
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            if descriptor.readlink() == path.resolve():
                return True
        except OSError:
            continue
    return False


def test_while_a_checkpoint_is_read(interrupted):
    """Ctrl-C: exit 75, the lock is free, no file has changed."""
    model = interrupted.run.checkpoints / step_name(10) / "model-00001-of-00001.safetensors"
    os.truncate(model, SPARSE_BYTES)
    process = start(interrupted, "resume", "demo")
    wait_until(lambda: has_open(process, model), process)
    stopped_quickly(process, signal.SIGINT)

    assert live_owner(interrupted.run.lock_file) is None
    assert len(interrupted.record.segments) == 1


def test_while_a_lock_hangs(interrupted):
    """Somebody holds the flock: SIGTERM ends the waiting."""
    with interrupted.run.lock_file.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = start(interrupted, "resume", "demo")
        wait_until(lambda: has_open(process, interrupted.run.lock_file), process)
        time.sleep(0.2)
        stopped_quickly(process, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_while_git_hangs(project, tmp_path, number):
    """A git that never answers: the draft of the run is removed, exit 75."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\ntouch {tools}/called\nexec sleep 60\n")
    (tools / "git").chmod(0o755)
    process = start(project, "train", "demo.yaml", "--run", "demo", PATH=f"{tools}:{os.environ['PATH']}")
    wait_until((tools / "called").exists, process)
    stopped_quickly(process, number)

    assert list((project.path / "runs").iterdir()) == []
