"""Watching real processes that are no trainers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llmrun.errors import InputError, LlmrunError, RunFailedError
from llmrun.launch.failure_report import last_lines, segment_failure
from llmrun.launch.torchrun import TorchrunWorkers
from llmrun.launch.watch import Watch
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.signals import REPEAT_S, STOP_SIGNALS, LauncherStopRequest
from llmrun.run.worker_spec import Outcome

PRELUDE = """
import json, os, sys, time
from pathlib import Path
from llmrun.errors import *
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome
run = RunDirectory(Path(sys.argv[1]))
def step(n):
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"step": n, "loss": 1.0}) + "\\n")
def end(rank, kind, n, **more):
    Outcome(rank, kind, n, **more).write(run.outcome_file(1, rank))
def until_stop():
    while not run.stop_file(1).exists():
        time.sleep(0.02)
"""


HINTS = ["the next command"]


class Watcher:
    """An observer that remembers, and may act on a row."""

    def __init__(self, on_row=lambda: None) -> None:
        self.steps, self.checkpoints, self.said, self.on_row = [], [], [], on_row

    def rows(self, rows):
        """New rows."""
        self.steps += [row["step"] for row in rows]
        self.on_row()

    def checkpoint(self, step):
        """A checkpoint."""
        self.checkpoints.append(step)

    def warn(self, message):
        """A remark while the run goes on."""

    def stopping(self, message):
        """A stop."""
        self.said.append(message)


@pytest.fixture
def run(tmp_path):
    """A run's directory with a place for logs."""
    made = RunDirectory(tmp_path / "demo")
    made.segment_logs(1).mkdir(parents=True)
    made.checkpoints.mkdir()
    return made


@pytest.fixture
def watching(run):
    """Start a script as the workers of a segment and watch it to its end."""

    def watch(script: str, D: int = 2, observer=None, from_step: int = 0, exit_within_s: float = 1.0):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, str(run.path)], start_new_session=True
        )
        with RunLock.acquire(run.lock_file) as lock, LauncherStopRequest() as stop:
            watcher = Watch(
                run, 1, D, from_step, TorchrunWorkers(process), stop, lock, observer or Watcher(), HINTS,
                exit_within_s=exit_within_s,
            )  # fmt: skip
            end = watcher.until_end()
        assert process.poll() is not None, "a process was left"
        return end

    return watch


def test_all_ranks_finished(watching):
    """Rows, proven steps and remarks reach the launcher."""
    watcher = Watcher()
    end = watching(
        "step(1); step(2); end(0, 'finished', 2, proven_steps=2, warnings=('x',)); end(1, 'finished', 2)",
        observer=watcher,
    )

    assert (end.why, end.proven_steps, end.warnings, end.error) == ("finished", 2, ("x",), None)
    assert watcher.steps == [1, 2]


@pytest.mark.parametrize("crash", ["os.abort()", "sys.exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_crash_after_the_work_is_done_changes_nothing(watching, crash):
    """Outcomes decide, not the exit code: gloo may crash at exit."""
    assert watching(f"end(0, 'finished', 2); end(1, 'finished', 2); {crash}").why == "finished"


def test_processes_that_hang_after_their_outcome_are_ended(watching):
    """A worker that cannot leave does not hold the run."""
    begun = time.monotonic()
    end = watching("end(0, 'reached', 2); end(1, 'reached', 2); time.sleep(60)")

    assert end.why == "reached"
    assert time.monotonic() - begun < 30


def test_rows_before_the_segment_are_not_shown_again(watching, run):
    """After a resume only what is new is shown."""
    run.metrics_file.write_text('{"step": 1}\n{"step": 2}\n')
    watcher = Watcher()
    watching("step(3); end(0, 'finished', 3)", D=1, observer=watcher, from_step=2)

    assert watcher.steps == [3]


def test_a_committed_checkpoint_is_shown(watching, run):
    """The newest final name above the start."""
    (run.checkpoints / "step-00000002").mkdir()
    (run.checkpoints / "step-00000005").mkdir()
    watcher = Watcher()
    watching("end(0, 'finished', 5)", D=1, observer=watcher, from_step=2)

    assert set(watcher.checkpoints) == {5}


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_for_a_save(watching, run, number):
    """A stop file for the workers, a sentence for the user, and the run ends as preempted."""
    watcher = Watcher(on_row=lambda: os.kill(os.getpid(), number))
    end = watching("step(1); until_stop(); end(0, 'preempted', 1)", D=1, observer=watcher)

    assert end.why == "preempted"
    assert run.stop_file(1).read_text() == f"{number.name}\n"
    assert watcher.said == [f"{number.name}: saving after this step; a second signal stops at once"]


ASKED_BY_SIGNAL = """
import subprocess
RANK = '''
import signal, sys, time
sys.path.insert(0, "")
exec(sys.argv[3])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
(run.path / f"ready-{sys.argv[4]}").touch()
while not (run.path / "ready-1").exists():
    time.sleep(0.02)
if sys.argv[4] == "0":
    step(1)
while not asked:
    time.sleep(0.02)
end(int(sys.argv[4]), "preempted", 1)
'''
command = [sys.executable, "-c", RANK, sys.argv[1], "llmrun.runtime.worker", PRELUDE]
ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
for rank in ranks:
    rank.wait()
(run.path / "bystander").write_text(str(bystander.poll()))
"""


def test_where_no_stop_file_can_be_made_the_workers_get_a_signal(watching, run):
    """A full disk takes no file: SIGTERM to each worker, to nothing else, and the run ends as preempted."""
    run.stop_file(1).mkdir()  # nothing can be renamed onto a directory
    watcher = Watcher(on_row=lambda: os.kill(os.getpid(), signal.SIGUSR1))
    end = watching(f"PRELUDE = {PRELUDE!r}" + ASKED_BY_SIGNAL, observer=watcher, exit_within_s=30)

    assert end.why == "preempted"
    assert (run.path / "bystander").read_text() == "None"
    assert watcher.said == ["SIGUSR1: saving after this step; a second signal stops at once"]


def test_the_second_signal_stops_at_once(watching):
    """Everything is killed, and the second signal's number is known."""

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(REPEAT_S)
        os.kill(os.getpid(), signal.SIGINT)

    end = watching("step(1); time.sleep(60)", D=1, observer=Watcher(on_row=twice))

    assert (end.why, end.killed_by) == ("killed", signal.SIGINT)


def test_the_same_request_twice_is_one(watching):
    """`timeout` and systemd signal twice within a moment: one save."""

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)

    script = "step(1); until_stop(); end(0, 'preempted', 1)"
    end = watching(script, D=1, observer=Watcher(on_row=twice))

    assert (end.why, end.killed_by) == ("preempted", None)


def test_a_view_that_fails_does_not_end_the_run(watching):
    """What shows a run cannot end it; the failure is a warning of the segment."""

    def fails():
        raise OSError(5, "Input/output error")

    end = watching("step(1); end(0, 'finished', 1)", D=1, observer=Watcher(on_row=fails))

    assert end.why == "finished"
    assert "Input/output error" in end.warnings[0]


def test_nohup_keeps_sighup_ignored():
    """A signal that the caller has made ignored stays ignored; the others are caught."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with LauncherStopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_put_back():
    """After a segment the signals mean what they meant before."""
    before = signal.getsignal(signal.SIGTERM)
    with LauncherStopRequest():
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_no_signal_is_caught():
    """A thread of a test or a notebook may launch too."""
    seen = []

    def launch():
        with LauncherStopRequest() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()

    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_reported_failure_reaches_the_user_in_its_own_words(watching):
    """Message, class and hints of the worker's error, where its log lies, and the launcher's own hint."""
    end = watching(
        "end(1, 'failed', 3, error=RunFailedError('loss is NaN at step 4', hints=['lower the rate']).as_json());"
        "time.sleep(60)"
    )

    assert end.why == "failed"
    assert type(end.error) is RunFailedError
    assert end.error.message == "loss is NaN at step 4"
    assert str(end.error.where).startswith("rank 1, ")
    assert end.error.hints == ("lower the rate", *HINTS)


def test_a_failure_keeps_its_exit_code(watching):
    """An input error found by a worker is exit 2, a bug 70."""
    script = "end(0, 'failed', 0, error={}('x').as_json())"

    assert type(watching(script.format("InputError"), D=1).error) is InputError
    assert watching(script.format("LlmrunError"), D=1).error.exit_code == LlmrunError.exit_code == 70


def test_a_lost_peer_is_never_the_first_cause(watching):
    """Rank 0 complained first, but only because rank 1 was gone."""
    end = watching(
        "end(0, 'failed', 3, error=RunFailedError('lost another rank').as_json(), consequence=True);"
        "time.sleep(0.05);"
        "end(1, 'failed', 3, error=RunFailedError('out of memory').as_json())"
    )

    assert end.error.message == "out of memory"


def test_workers_that_vanish_without_an_outcome(watching, run):
    """Torchrun's own last lines, where nothing else is known."""
    run.torchrun_log(1).write_text("first\n\nModuleNotFoundError: no module named x\n")
    end = watching("sys.exit(3)")

    assert end.error.message.endswith("torchrun ended with exit code 3")
    assert str(end.error.where) == str(run.torchrun_log(1))
    assert end.error.caused_by == ("first", "ModuleNotFoundError: no module named x")


def test_a_lock_that_was_taken_over_ends_the_workers(watching, run):
    """A launcher that slept too long kills its own workers and leaves the run to its successor."""

    def usurp():
        document = json.loads(run.lock_file.read_text())
        run.lock_file.write_text(json.dumps({**document, "token": "another"}))

    original = RunLock.acquire.__func__
    RunLock.acquire = classmethod(lambda cls, path: original(cls, path, beat_s=0.02))
    try:
        end = watching("step(1); time.sleep(60)", D=1, observer=Watcher(on_row=usurp))
    finally:
        RunLock.acquire = classmethod(original)

    assert end.why == "failed"
    assert "took demo over while this one was suspended" in end.error.message


def failures(run, *deaths):
    """What the agent wrote."""
    run.failures_file(1).write_text(
        json.dumps([{"rank": r, "pid": 100 + r, "exit_code": c} for r, c in deaths])
    )


@pytest.mark.parametrize(
    ("deaths", "message"),
    [
        ([(0, -6), (1, -9)], "rank 1 was killed by SIGKILL (PID 101)"),
        ([(1, -11), (2, -15)], "rank 1 was killed by SIGSEGV (PID 101)"),
        ([(2, 1)], "rank 2 ended with exit code 1 (PID 102)"),
        ([(0, -6)], "rank 0 was killed by SIGABRT (PID 100)"),
    ],
)
def test_which_death_came_first(run, deaths, message):
    """A signal from outside before aborts that follow from it."""
    failures(run, *deaths)

    assert segment_failure(run, 1, [], 1).message == message


def test_a_kill_goes_before_the_words_of_others(run):
    """Out of memory on rank 1; rank 0 says that its connection broke."""
    failures(run, (0, 1), (1, -9))
    outcome = Outcome(0, "failed", 3, RunFailedError("a bug of llmrun").as_json())
    outcome.write(run.outcome_file(1, 0))

    assert segment_failure(run, 1, [outcome], 1).message == "rank 1 was killed by SIGKILL (PID 101)"


def test_memory_that_ran_out_is_a_cause(run):
    """The kernel's count of kills says why a rank, or the agent itself, was killed."""
    alone = segment_failure(run, 1, [], -9)
    assert any("`oom`" in hint for hint in alone.hints)
    assert segment_failure(run, 1, [], -9, oom_kills=2).caused_by[0].startswith("memory ran out")
    failures(run, (1, -9))
    assert segment_failure(run, 1, [], 1).caused_by == ()
    assert segment_failure(run, 1, [], 1, oom_kills=1).caused_by[0].startswith("memory ran out")


def test_last_lines_of_a_long_log(run):
    """The end is read, not the whole; odd bytes do not hurt; a missing log is empty."""
    run.rank_log(1, 0).write_bytes(b"x\n" * 200_000 + b"\xff last words\n\n")

    assert last_lines(run.rank_log(1, 0))[-1] == "� last words"
    assert len(last_lines(run.rank_log(1, 0))) == 20
    assert last_lines(run.rank_log(1, 1)) == []
