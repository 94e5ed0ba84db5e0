"""The lock, with real processes."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmrun.errors import RefusedError, RunFailedError
from llmrun.machine import INITIAL_PID_NAMESPACE
from llmrun.run.lock import Fence, RunLock, live_owner, this_process

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
    assert caught.value.message.startswith("demo is being trained by ")
    assert f"(PID {process.pid})" in caught.value.message
    assert " since 20" in caught.value.message
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
    """Fresh: refused.  Older than 120 s, and still while it is watched: taken over, with the age."""
    forge(path, age_s=60, host="node7", job_id="99")
    with pytest.raises(RefusedError, match=r"on node7 \(PID \d+, batch job 99\)"):
        RunLock.acquire(path)

    forge(path, age_s=1000, host="node7")
    said = []
    with RunLock.acquire(path, notify=said.append, watch_s=0.3) as lock:
        assert re.search(r"its heartbeat is 100\d s old, more than 120 s", lock.taken_over)
    assert said[0].startswith("watching the heartbeat of ")


@pytest.mark.parametrize("age_s", [1000, -365 * 86400])
def test_a_heartbeat_that_moves_is_alive_whatever_its_stamp(path, age_s):
    """A clock that was set forward or back: the owner still beats, and is respected."""
    forge(path, age_s=age_s, host="node7")

    def beat():
        time.sleep(0.2)
        os.utime(path, (time.time() - age_s + 10,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(RefusedError, match="on node7"):
        RunLock.acquire(path, watch_s=5)
    thread.join()


def test_a_lock_stamped_in_the_future_is_not_respected_for_ever(path):
    """Stamped a year ahead and standing still: taken over, and shown as nobody's."""
    forge(path, age_s=-365 * 86400, host="node7")

    assert live_owner(path) is None
    with RunLock.acquire(path, watch_s=0.3) as lock:
        assert "in the future" in lock.taken_over


ELSEWHERE = """
import json, os, sys
from pathlib import Path
from llmrun.errors import RefusedError
from llmrun.run.lock import RunLock
try:
    RunLock.acquire(Path(sys.argv[1]), watch_s=0.3)
    print("got")
except RefusedError as refused:
    print(json.dumps(refused.as_json()))
"""


def in_another_pid_namespace(script: str, *arguments: str) -> str:
    """What a Python script prints as process 1 of a new PID namespace."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script, *arguments]
    try:
        tried = subprocess.run([*command[:4], "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare command here")
    if tried.returncode:
        pytest.skip(f"this user may not make a PID namespace: {tried.stderr.strip()}")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_pid_means_nothing_in_another_namespace(path):
    """Whoever cannot look the owner up believes its heartbeat, and is told no PID of ours to kill."""
    with RunLock.acquire(path, beat_s=0.05) as lock:
        refused = json.loads(in_another_pid_namespace(ELSEWHERE, str(path)))
        assert not lock.is_lost

    assert "is being trained by" in refused["message"]
    if this_process().pid_namespace != INITIAL_PID_NAMESPACE:
        assert "kill" not in refused["hints"][0]


def test_an_owner_in_a_container_is_not_looked_up_here(path):
    """Its PID is that of a process of ours: neither alive for that, nor to be killed."""
    forge(path, age_s=0, pid_namespace="pid:[1]")
    with pytest.raises(RefusedError) as caught:
        RunLock.acquire(path)
    assert "kill" not in caught.value.hints[0]

    forge(path, age_s=1000, pid_namespace="pid:[1]")
    with RunLock.acquire(path, watch_s=0.3) as lock:
        assert "heartbeat" in lock.taken_over


def test_a_flock_that_hangs_is_a_refusal(path, monkeypatch):
    """A process never releases the flock: an error after a time limit, instead of waiting without end."""
    monkeypatch.setattr("llmrun.run.lock.FLOCK_WITHIN_S", 0.3)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="flock"):
            RunLock.acquire(path)


def test_a_lock_file_that_was_replaced_is_lost(path):
    """A user who removes the file lets another process in; the first one notices."""
    lock = RunLock.acquire(path)
    path.unlink()
    other = RunLock.acquire(path)

    assert lock.is_lost
    assert not other.is_lost
    lock.release()
    assert live_owner(path).token == other.owner.token
    other.release()


def test_the_fence_of_a_worker(path):
    """It lets the owner's workers write, and stops them when another token stands there or none."""
    lock = RunLock.acquire(path)
    fence = Fence(path, lock.owner.token)
    fence.check(now=True)

    forge(path, age_s=0, token="another", host="node7")
    fence.check()  # looked less than a second ago
    with pytest.raises(RunFailedError, match=r"taken over by .* on node7") as caught:
        fence.check(now=True)
    assert caught.value.exit_code == 4
    path.write_bytes(b"")
    with pytest.raises(RunFailedError, match="was released"):
        fence.check(now=True)
    path.unlink()
    fence.check(now=True)  # no proof: the run's directory may have been moved
    Fence(path, None).check(now=True)
    lock.release()


def test_a_reused_pid_is_another_process(path):
    """A live process with the owner's PID and another start time is not the owner."""
    forge(path, age_s=0, process_start=1)

    with RunLock.acquire(path) as lock:
        assert lock.taken_over.endswith("that process is gone")


def test_an_owner_before_a_reboot_is_dead(path):
    """PIDs of another boot mean nothing: its heartbeat is watched, which another machine of the name would move."""
    forge(path, age_s=0, boot="another boot")

    with RunLock.acquire(path, watch_s=0.3) as lock:
        assert lock.taken_over.endswith("the machine was rebooted since")


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
    with pytest.raises(RefusedError, match="cannot write"):
        RunLock.acquire(tmp_path / "missing" / "run.lock")
