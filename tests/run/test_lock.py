"""The lock, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrun.errors import RefusedError
from llmrun.run.lock import RunLock, live_owner, this_process

HOLD = """
import sys, time
from pathlib import Path
from llmrun.run.lock import RunLock
lock = RunLock.acquire(Path(sys.argv[1]), beat_s=0.05)
print("held", flush=True)
time.sleep(60)
"""

RACE = """
import sys, time
from pathlib import Path
from llmrun.errors import RefusedError
from llmrun.run.lock import RunLock
while time.time() < float(sys.argv[2]):
    pass
try:
    RunLock.acquire(Path(sys.argv[1]))
    print("got")
except RefusedError:
    print("refused")
sys.stdout.flush()
time.sleep(2)
"""


def holder(path: Path) -> subprocess.Popen:
    """Another process that holds the lock at `path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def forge(path: Path, age_s: float, **changed) -> None:
    """A lock as some owner elsewhere left it, its heartbeat `age_s` old."""
    owner = {"format": "llmrun-lock/1", **vars(this_process()), **changed}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age_s, time.time() - age_s))


@pytest.fixture
def path(tmp_path):
    """Where the lock lies."""
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo" / "run.lock"


def test_the_second_process_is_refused_with_the_owners_name(path):
    """Host, user, PID, since when, and the way out."""
    process = holder(path)
    try:
        with pytest.raises(RefusedError) as caught:
            RunLock.acquire(path)
    finally:
        process.kill()
        process.wait()

    assert caught.value.exit_code == 3
    assert caught.value.says.startswith("demo is being trained by ")
    assert f"(PID {process.pid})" in caught.value.says
    assert " since 20" in caught.value.says
    assert f"`kill {process.pid}`" in caught.value.hints[0]


def test_a_sigkilled_owner_is_taken_over_and_that_is_said(path):
    """A dead process on this host does not hold a run."""
    process = holder(path)
    process.send_signal(signal.SIGKILL)
    process.wait()

    with RunLock.acquire(path) as lock:
        assert f"(PID {process.pid})" in lock.taken_over
        assert lock.taken_over.endswith("that process is gone")
        assert live_owner(path).pid == os.getpid()


def test_a_suspended_owner_keeps_its_lock(path):
    """A process that is only stopped is alive, however old its heartbeat is."""
    process = holder(path)
    try:
        process.send_signal(signal.SIGSTOP)
        os.utime(path, (0, 0))
        with pytest.raises(RefusedError):
            RunLock.acquire(path)
    finally:
        process.kill()
        process.wait()


def test_release_frees_and_leaves_nothing_to_say(path):
    """The next owner does not hear of one that left in order."""
    RunLock.acquire(path).release()

    assert live_owner(path) is None
    with RunLock.acquire(path) as lock:
        assert lock.taken_over is None


def test_release_twice_is_harmless(path):
    """Cleaning up may run twice."""
    lock = RunLock.acquire(path)
    lock.release()
    lock.release()


def test_an_owner_elsewhere_is_judged_by_its_heartbeat(path):
    """Fresh: refused.  Older than 120 s: taken over, with the age."""
    forge(path, age_s=60, host="node7", job_id="99")
    with pytest.raises(RefusedError, match=r"on node7 \(PID \d+, batch job 99\)"):
        RunLock.acquire(path)

    forge(path, age_s=1000, host="node7")
    with RunLock.acquire(path) as lock:
        assert "its heartbeat is 1000 s old, more than 120 s" in lock.taken_over


def test_a_reused_pid_is_another_process(path):
    """A live process with the owner's PID and another start time is not the owner."""
    forge(path, age_s=0, process_start=1)

    with RunLock.acquire(path) as lock:
        assert lock.taken_over.endswith("that process is gone")


def test_an_owner_before_a_reboot_is_dead(path):
    """PIDs of another boot mean nothing."""
    forge(path, age_s=0, boot="another boot")

    with RunLock.acquire(path) as lock:
        assert lock.taken_over.endswith("the machine has been started anew since")


def test_the_heartbeat_beats(path):
    """The file's time moves while the lock is held."""
    with RunLock.acquire(path, beat_s=0.05):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)

        assert path.stat().st_mtime > 0


def test_an_owner_that_was_taken_over_notices_and_leaves_the_lock_alone(path):
    """A launcher that slept too long knows that it has lost, and does not free its successor's lock."""
    lock = RunLock.acquire(path, beat_s=0.05)
    forge(path, age_s=0, token="somebody else", host="node7")
    deadline = time.monotonic() + 10
    while not lock.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    lock.release()

    assert lock.lost
    assert json.loads(path.read_text())["token"] == "somebody else"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "llmrun-lock/1"}', b"\xff"])
def test_a_torn_lock_holds_nobody(path, content):
    """What a crash tore while it was written names no owner."""
    path.write_bytes(content)

    with RunLock.acquire(path) as lock:
        assert lock.taken_over is None


@pytest.mark.parametrize("before", ["free", "dead owner"])
def test_of_many_that_start_at_once_exactly_one_wins(path, before):
    """Checking and writing are one step, also when a dead owner is taken over."""
    if before == "dead owner":
        forge(path, age_s=0, process_start=1)
    start = time.time() + 2.5
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), str(start)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = sorted(racer.communicate()[0].strip() for racer in racers)

    assert answers == ["got", "refused", "refused", "refused"]


def test_a_place_without_permission_is_a_refusal(tmp_path):
    """Where the lock cannot be written nothing starts."""
    with pytest.raises(RefusedError, match="cannot be written"):
        RunLock.acquire(tmp_path / "missing" / "run.lock")
