"""Where a resume starts: newest, best, a step; damage passed over; nothing to do."""

import signal
import subprocess
import sys

import pytest

from llmrun.errors import InputError
from llmrun.launch.prepared_segment import NothingToDo
from llmrun.storage.ledger.reader import LedgerReader


def test_a_damaged_checkpoint_is_named_and_passed_over(interrupted):
    """The newest sound one is taken, the damaged one moved aside, and the user told."""
    file = interrupted.run.checkpoints / "step-00000010" / "model-00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    interrupted.resume(until=8)

    assert interrupted.record.last.from_step == 5
    assert any("step-00000010/model-00001-of-00001.safetensors" in line for line in interrupted.said)
    assert (interrupted.run.checkpoints / "abandoned-002" / "step-00000010").is_dir()


def test_checkpoints_that_are_all_damaged_are_a_refusal(interrupted):
    """Never a silent start from nothing; the way out is named."""
    for step in (5, 10):
        (interrupted.run.checkpoints / f"step-{step:08d}" / "manifest.json").unlink()
    error = interrupted.refusal()

    assert str(error.where) == str(interrupted.run.checkpoints)
    assert any("step-00000005/manifest.json is missing" in line for line in error.caused_by)
    assert any("`--from 0`" in hint for hint in error.hints)


def test_a_run_without_any_checkpoint_starts_at_step_0_and_says_so(project):
    """Killed before the first save: the steps it recorded are audited, record 0 included."""
    project.backend.dies_after = 3
    project.train()
    project.backend.dies_after = None
    project.resume()

    assert "no checkpoint was committed yet: starting at step 0" in project.said
    assert project.record.last.from_step == 0
    assert project.worker_spec(2).audit_tails == ["ledger-tail-002.bin"]
    assert LedgerReader(project.run.ledger_tail(2)).steps == range(4)


def test_from_a_step_abandons_the_newer_ones(interrupted):
    """Checkpoints above the start never win again."""
    interrupted.resume(start="5", until=6)

    assert (interrupted.run.checkpoints / "abandoned-002" / "step-00000010").is_dir()
    assert interrupted.record.last.from_step == 5
    assert LedgerReader(interrupted.run.ledger_file).steps == range(7)


def test_from_best(interrupted):
    """The step that trainer.json names; without an evaluation an error."""
    with pytest.raises(InputError, match="no best checkpoint"):
        interrupted.prepare_resume(start="best")
    interrupted.backend.best_at = 5
    interrupted.resume(until=15)
    interrupted.resume(start="best", until=7)

    assert interrupted.record.last.from_step == 5


def test_from_a_step_without_a_checkpoint_names_those_there_are(interrupted):
    """The step asked for, and the steps there are."""
    with pytest.raises(InputError) as caught:
        interrupted.prepare_resume(start="7")

    assert "step 7" in caught.value.message
    assert "5, 10" in caught.value.hints[0]


def test_a_finished_run_says_so(project):
    """Nothing to do, exit 0, nothing touched."""
    project.train()
    before = project.files()
    ready = project.prepare_resume()

    assert isinstance(ready, NothingToDo)
    assert ready.record.status == "finished"
    assert project.files() == before
    assert isinstance(project.prepare(), NothingToDo)


def test_a_finished_run_is_extended_only_by_permission(project):
    """A longer horizon is a change of config like any other; allowed, the run has more steps."""
    project.train()

    assert project.refusal(overrides=["T_tokens=25Ki"]).message == "T_tokens: 20480 -> 25600"
    project.resume(overrides=["T_tokens=25Ki"], allow=["config"])
    assert (project.record.status, project.record.steps) == ("finished", 25)


def test_a_config_that_ends_before_the_run_does_is_no_finish(interrupted):
    """The run is at step 10 of 20; a config of 8 steps does not make it finished."""
    with pytest.raises(InputError, match=r"step 10 of 20.* 8 steps"):
        interrupted.prepare(overrides=["T_tokens=8Ki"])

    assert interrupted.record.status == "failed"


def test_a_reached_step_is_reached(interrupted):
    """The same batch line again: nothing to do."""
    interrupted.resume(until=15)

    ready = interrupted.prepare_resume(until=15)
    assert isinstance(ready, NothingToDo)
    assert ready.record.last.to_step == 15


NAMED_AND_KILLED = """
import os, sys
import llmrun.launch.new_run as fresh
from llmrun.config.load import load_config
from llmrun.run.signals import LauncherStopRequest
from llmrun.launch.torchrun import Probe
from llmrun.launch.options import LaunchContext, launch_options

class Looks:
    def probe(self, device, environment, check):
        return Probe({"torch": "2.13.0", "variables": {"OMP_NUM_THREADS": "1"}}, {}, {
            "llmrun/core/step.py": "aa" * 32, "llmrun/cli/app.py": "bb" * 32})

commit = fresh.commit
fresh.commit = lambda draft, final: (commit(draft, final), os.kill(os.getpid(), 9))
loaded = load_config(fresh.Path("demo.yaml"))
fresh.prepare_fresh(loaded, "demo", launch_options([], [], None), LaunchContext(Looks(), LauncherStopRequest(), print))
"""


@pytest.mark.parametrize("command", ["train --run", "resume"])
def test_a_launcher_killed_before_the_first_segment_leaves_a_run_that_starts(project, command):
    """SIGKILL right after the run got its name: there is a run without a segment, and both commands start it."""
    done = subprocess.run([sys.executable, "-c", NAMED_AND_KILLED], check=False, cwd=project.path)
    assert done.returncode == -signal.SIGKILL
    assert (project.record.status, project.record.segments) == ("created", [])
    ended = project.train() if command == "train --run" else project.resume()

    assert ended.end.why == "finished"
    assert (ended.record.last.segment, ended.record.last.from_step, ended.record.last.D) == (1, 0, 2)
    assert project.record.last.allowed == []
    assert project.worker_spec(1).audit_tails == []
    assert "no checkpoint was committed yet: starting at step 0" in project.said
    assert any(line.startswith("took over the lock of ") for line in project.said)
    assert LedgerReader(project.run.ledger_file).steps == range(21)
    assert list((project.path / "runs").glob(".tmp-*")) == []


def test_a_launcher_killed_while_preparing_leaves_a_run_that_resumes(interrupted):
    """SIGKILL between abandoning checkpoints and cutting the ledger: the next start sees it through."""
    script = f"""
import os, sys
sys.path.insert(0, {str(interrupted.path)!r})
import llmrun.launch.rollback as rollback
rollback.cut_metrics = lambda *_: os.kill(os.getpid(), 9)
from pathlib import Path
from llmrun.launch.select_checkpoint import select_start
from llmrun.run.directory import RunDirectory
from types import SimpleNamespace
run = RunDirectory(Path({str(interrupted.run.path)!r}))
rollback.roll_back(run, select_start(run, 5, print), SimpleNamespace(segment=2), print)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    ended = interrupted.resume()

    assert ended.end.why == "finished"
    assert interrupted.record.last.from_step == 5
    assert LedgerReader(interrupted.run.ledger_file).steps == range(21)


def test_temporary_files_of_killed_processes_are_swept(interrupted):
    """A launcher killed while it replaced run.json, a rank killed before its outcome: the next start removes both."""
    left = [
        interrupted.run.path / ".tmp-run.json-4321",
        interrupted.run.segment_logs(1) / ".tmp-rank-0.reserved",
    ]
    for path in left:
        path.write_text("half")
    interrupted.resume()

    assert list(interrupted.run.path.rglob(".tmp-*")) == []
