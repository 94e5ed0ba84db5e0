"""A new run: its directory appears whole, or not at all."""

import errno
import json
import os
import signal
import time

import pytest
import yaml

from llmrun.config.load import load_config
from llmrun.errors import ConfigError, InputError, PreemptedError, RefusedError
from llmrun.launch.new_run import refuse_existing
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.lock import live_owner
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.durable import Disk


def test_a_whole_run(project):
    """From nothing to a finished run with everything on record."""
    ended = project.train()

    assert ended.end.why == "finished"
    assert ended.step == 20
    assert project.record == ended.record
    assert project.record.status == "finished"
    assert project.watcher.steps == list(range(1, 21))
    assert project.watcher.checkpoints[-1] == 20
    assert {path.name for path in project.run.path.iterdir()} == {
        "checkpoints", "config.yaml", "forecast.json", "ledger.bin", "logs", "metrics.jsonl", "order", "provenance",
        "run.json", "run.lock",
    }  # fmt: skip
    assert {path.name for path in project.run.provenance.iterdir()} == {
        "data.json", "environment.json", "git.diff", "git.json", "pip-freeze.txt",
    }  # fmt: skip


def test_everything_is_there_before_workers_start(project):
    """Config, provenance, order and record are on disk, the lock is held, when the first worker starts."""
    prepared = project.prepare()

    assert project.record.status == "created"
    assert project.run.config_file.is_file()
    assert (project.run.order / "order.bin").stat().st_size == 8 * 20 * 4 * 4
    with pytest.raises(RefusedError, match="is being trained by"):
        project.prepare()
    prepared.lock.release()


def test_too_little_room_names_the_place_for_runs(project, monkeypatch):
    """Not the draft, which is gone by then; 20 steps save at most 20 checkpoints, however many may be kept."""
    monkeypatch.setattr("llmrun.storage.checkpoint.space.free_bytes", lambda _path: 0)
    with pytest.raises(RefusedError) as caught:
        project.prepare(overrides=["checkpoint.keep_last=500000"])

    assert "21 checkpoints of " in caught.value.message
    assert str(caught.value.where) == "runs"
    assert list((project.path / "runs").iterdir()) == []


def test_config_yaml_is_resolved_and_loads_again(project):
    """What was derived is written out, in the user's symbols, and means the same."""
    project.train()
    text = project.run.config_file.read_text()
    document = yaml.safe_load(text)

    assert document["batch"]["V"] == 4
    assert document["batch"]["μ_tok"] == 256
    assert document["model"]["vocab_size"] == 257
    assert document["hardware"]["device"] == "cpu"
    assert (
        load_config(project.run.config_file).config.model_dump(mode="json", by_alias=True)
        == project.record.config
    )


def test_the_fingerprint_can_be_rebuilt_from_the_record(project):
    """run.json holds the preimages, and the workers are told the same digest."""
    project.train()
    fingerprint = Fingerprint.of_json(project.record.fingerprint)

    assert fingerprint.digest == project.record.fingerprint["digest"] == project.worker_spec(1).fingerprint
    assert fingerprint.preimages["code"] == {"llmrun/core/step.py": "aa" * 32}
    assert fingerprint.preimages["environment"] == project.backend.environment


def test_workers_get_pinned_variables(project):
    """What the probe saw is what the workers get."""
    project.train()
    (job,) = project.backend.jobs

    assert job.environment["OMP_NUM_THREADS"] == job.environment["MKL_NUM_THREADS"] == "1"
    assert job.environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert job.environment["PATH"] == os.environ["PATH"]


def test_until_stops_early_and_leaves_the_horizon(project):
    """The segment ends at the step, the run still has all of its steps."""
    ended = project.train(until=7)

    assert (ended.end.why, ended.step, ended.record.steps) == ("reached", 7, 20)
    assert project.worker_spec(1).until_step == 7


def test_outside_a_repository_it_says_what_is_missing(project):
    """It works, and the user hears it."""
    project.train()

    assert project.said[0].endswith("is not in a git repository: the commit of the code is not recorded")
    assert json.loads((project.run.provenance / "git.json").read_text())["commit"] is None


def test_without_a_name_the_directory_has_name_time_and_digits(project):
    """`<name>-<yyyymmdd>-<hhmmss>-<4 hex>`."""
    prepared = project.prepare(identity=None)
    prepared.lock.release()

    name, day, time, tail = prepared.run.path.name.split("-")
    assert (name, len(day), len(time), len(tail)) == ("demo", 8, 6, 4)


@pytest.mark.parametrize(
    ("break_it", "kind", "message"),
    [
        (
            lambda p: p.edit("data: {path: data}", "data: {path: nowhere}"),
            InputError,
            "there is no dataset at nowhere",
        ),
        (lambda p: p.edit("data: {path: data}", ""), ConfigError, "data.path is not given"),
        (lambda p: (p.path / "runs").write_text(""), InputError, "runs is not a directory"),
        (
            lambda p: (p.path / "runs" / "demo").mkdir(parents=True),
            InputError,
            "exists and is not a run's directory",
        ),
    ],
)
def test_refused_before_anything_was_made(project, break_it, kind, message):
    """Wrong input leaves no trace below runs_dir."""
    break_it(project)
    runs = project.path / "runs"
    before = sorted(runs.iterdir()) if runs.is_dir() else None

    with pytest.raises(kind, match=message):
        project.train()

    assert (sorted(runs.iterdir()) if runs.is_dir() else None) == before


def test_until_beyond_the_run_is_refused(project):
    """The user's number beside the run's."""
    with pytest.raises(InputError, match="20, got 21"):
        project.train(until=21)


def test_a_signal_before_the_workers_leaves_nothing(project):
    """Exit 75, no directory, no lock."""
    with LauncherStopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(PreemptedError, match="stopped by SIGTERM before the first step"):
            project.prepare(stop=stop)

    assert list((project.path / "runs").iterdir()) == []


def test_what_a_killed_launcher_left_is_swept(project):
    """A hidden draft whose owner is gone is removed by the next start; one of a live owner stays."""
    dead = project.path / "runs" / ".tmp-demo-1-aa"
    alive = project.path / "runs" / ".tmp-demo-2-bb"
    prepared = project.prepare(identity="other")
    for path in (dead, alive):
        path.mkdir()
        (path / "run.lock").write_bytes((prepared.run.path / "run.lock").read_bytes())
    owner = json.loads((dead / "run.lock").read_text())
    (dead / "run.lock").write_text(json.dumps({**owner, "process_start": 1}))
    project.train()
    prepared.lock.release()

    assert not dead.exists()
    assert alive.exists()


def test_an_earlier_run_of_the_same_fingerprint_is_compared_with(project):
    """The second run gets the first one's ledger, and says so; a run of another seed does not."""
    project.train(identity="first")
    project.said.clear()
    again = project.prepare(identity="second")
    again.lock.release()
    other = project.prepare(identity="third", overrides=["seed=43"])
    other.lock.release()
    apart = project.prepare(identity="fourth", overrides=["reproducibility.compare_with=none"])
    apart.lock.release()

    assert again.worker_spec.reference_ledger == str(project.path / "runs" / "first" / "ledger.bin")
    assert "first has the same fingerprint: every step will be compared with it" in project.said
    assert other.worker_spec.reference_ledger is None
    assert apart.worker_spec.reference_ledger is None


def test_two_commands_with_one_name_at_once(project):
    """Who comes second is refused, wherever the first appears: before the draft, or while it is made."""
    project.prepare(identity="other").lock.release()
    other = project.path / "runs" / "other"
    probe = project.backend.probe

    def overtaken(*arguments):
        other.rename(project.run.path)
        return probe(*arguments)

    project.backend.probe = overtaken
    with pytest.raises(RefusedError, match="runs/demo"):
        project.prepare()
    assert [path.name for path in (project.path / "runs").iterdir()] == ["demo"]

    with pytest.raises(RefusedError, match="runs/demo"):
        refuse_existing(project.run)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOTEMPTY, "another process"),
        (errno.ENOSPC, "No space left on device"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_name_that_cannot_be_given_says_why(project, monkeypatch, code, cause):
    """Only a name that is taken is another process's; a full or broken disk is called that."""
    rename = Disk.rename

    def refusing(self, old, new):
        if new.name == "demo":
            raise OSError(code, os.strerror(code), str(old))
        rename(self, old, new)

    monkeypatch.setattr(Disk, "rename", refusing)
    with pytest.raises(RefusedError) as caught:
        project.prepare()

    assert cause in caught.value.message
    assert list((project.path / "runs").iterdir()) == []


def test_a_name_that_is_not_forced_to_the_disk(project, monkeypatch):
    """The directory has its name when the disk fails: the cause is said, the run is there and free."""
    fsync = Disk.fsync_directory

    def refusing(self, path):
        if path.name == "runs" and project.run.path.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        fsync(self, path)

    monkeypatch.setattr(Disk, "fsync_directory", refusing)
    with pytest.raises(RefusedError) as caught:
        project.prepare()
    monkeypatch.undo()

    assert "Input/output error" in caught.value.message
    assert any("llmrun resume runs/demo" in hint for hint in caught.value.hints)
    assert live_owner(project.run.lock_file) is None
    assert project.record.status == "created"


def test_a_draft_of_another_host_is_judged_by_the_file_systems_clock(project, monkeypatch):
    """Its heartbeat is fresh by the clock that stamps it; this host's clock is an hour ahead."""
    alive = project.path / "runs" / ".tmp-demo-2-bb"
    prepared = project.prepare(identity="other")
    owner = json.loads(prepared.run.lock_file.read_text())
    prepared.lock.release()
    alive.mkdir()
    (alive / "run.lock").write_text(json.dumps({**owner, "host": "elsewhere", "boot": "another"}))
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 3600)
    project.train()

    assert alive.exists()
