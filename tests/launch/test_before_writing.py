"""What is wrong is found before anything is written and named by its role; nothing is left behind."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrun.errors import InputError, RefusedError
from llmrun.launch.os_errors import os_error_as
from llmrun.storage.durable import Disk

TABLE = "my-gpu: {memory_GB: 80, bf16_TFLOPs: 100, fp32_TFLOPs: 50}\n"
MISSPELT = ["hardware.accelerator=A100-80G-SMX"]


@pytest.fixture
def table(project):
    """A hardware table of the user, and one with a mistake."""
    (project.path / "own.yaml").write_text(TABLE)
    (project.path / "bad.yaml").write_text("my-gpu: {memory_GB: much}\n")
    return ["hardware.table=own.yaml", "hardware.accelerator=my-gpu"]


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        (MISSPELT, "A100-80G-SMX"),
        (["hardware.table=bad.yaml"], "memory_GB"),
        (["hardware.table=gone.yaml", "hardware.accelerator=my-gpu"], "gone.yaml"),
    ],
)
def test_a_new_run_is_refused_without_a_trace(project, table, overrides, fact) -> None:
    """Exit 2, and there is no run and no draft."""
    with pytest.raises(InputError) as caught:
        project.prepare(overrides=overrides)

    assert fact in str(caught.value.as_json())
    assert not (project.path / "runs").exists()


def test_the_place_of_a_misspelt_accelerator_is_named(project) -> None:
    """The line of the config file that has it."""
    project.edit("hardware: {device: cpu}", "hardware: {device: cpu, accelerator: A100-80G-SMX}")
    with pytest.raises(InputError) as caught:
        project.prepare()

    line = (
        (project.path / "demo.yaml")
        .read_text()
        .splitlines()
        .index("hardware: {device: cpu, accelerator: A100-80G-SMX}")
    )
    assert f"demo.yaml:{line + 1}" in str(caught.value.where)
    assert "hardware.accelerator" in str(caught.value.where)


def test_a_resume_is_refused_before_files_are_cut_back(interrupted) -> None:
    """Ledger, metrics, checkpoints and run.json are byte for byte as they were."""
    before = interrupted.files()
    with pytest.raises(InputError):
        interrupted.prepare_resume(overrides=MISSPELT, start="5")

    assert interrupted.files() == before


@pytest.mark.parametrize("name", ["order.bin", "environment.json"])
def test_a_full_disk_refuses_a_resume_before_files_are_cut_back(interrupted, monkeypatch, name) -> None:
    """The order of a longer run, or the new segment's provenance, has no room: exit 3, history as it was."""
    create = Disk.create

    def refusing(self, path):
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return create(self, path)

    kept = ("ledger", "metrics.jsonl", "checkpoints", "run.json")
    before = {path: content for path, content in interrupted.files().items() if path.startswith(kept)}
    with monkeypatch.context() as full:
        full.setattr(Disk, "create", refusing)
        with pytest.raises(RefusedError):
            interrupted.prepare_resume(overrides=["T_tokens=25Ki"], allow=["config"], start="5")
    after = {path: content for path, content in interrupted.files().items() if path.startswith(kept)}

    assert after == before
    assert interrupted.resume().end.why == "finished"


def test_a_table_that_goes_away_later_costs_only_the_forecast(project, table) -> None:
    """The run trains to its end and says that there is no forecast."""
    prepared = project.prepare(overrides=table)
    (project.path / "own.yaml").unlink()
    ended = project.go(prepared)

    assert ended.end.why == "finished"
    assert any("own.yaml" in warning for warning in ended.end.warnings)


@pytest.mark.parametrize("text", ["[]", '{"format": "llmrun-forecast/1", "segments": [[]]}', "\xff"])
def test_a_damaged_forecast_of_another_run_ends_nothing(project, text) -> None:
    """Whatever lies in a forecast.json below runs_dir."""
    project.train(until=5)
    other = project.path / "runs" / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    (other / "forecast.json").write_bytes(text.encode("latin-1"))

    assert project.resume().end.why == "finished"


def test_inputs_that_cannot_be_read_are_named_with_their_role(project) -> None:
    """The metrics of a baseline's run cannot be read: that file and its role are named, not runs_dir."""
    for seed in (1, 2):
        project.train(identity=f"base-{seed}", overrides=[f"seed={seed}"], until=5)
    unreadable = project.path / "runs" / "base-1" / "metrics.jsonl"
    unreadable.unlink()
    unreadable.mkdir()
    with pytest.raises(RefusedError) as caught:
        project.prepare(overrides=["monitor.baseline=[base-*]"])

    assert caught.value.exit_code == 3
    assert Path(str(caught.value.where)).resolve() == unreadable.resolve()
    assert "baseline" in caught.value.message
    assert caught.value.message.startswith("cannot read ")
    assert not project.run.path.exists()


def test_what_the_system_refuses_elsewhere_is_not_blamed_on_the_run(tmp_path) -> None:
    """A file outside the run's directory is named in its place; one below it is not."""
    with pytest.raises(RefusedError) as elsewhere, os_error_as(RefusedError, tmp_path / "runs"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(RefusedError) as below, os_error_as(RefusedError, tmp_path / "runs"):
        (tmp_path / "runs" / "a").read_bytes()

    assert f" {tmp_path / 'input'}:" in elsewhere.value.message
    assert f" {tmp_path / 'runs'}:" in below.value.message


def age(path: Path, hours: float) -> None:
    """Date a file back."""
    then = time.time() - hours * 3600
    os.utime(path, (then, then))


def test_drafts_of_launchers_killed_before_their_lock_are_swept(project) -> None:
    """Empty ones an hour old go, also with an empty lock; young ones, and whatever holds anything, stay."""
    runs = project.path / "runs"
    runs.mkdir()
    names = ["bare", "locked", "young", "full", "odd"]
    paths = {name: runs / f".tmp-{name}-4242-0011aabb" for name in names}
    paths["odd"] = runs / ".tmp-odd"
    for path in paths.values():
        path.mkdir()
    (paths["locked"] / "run.lock").touch()
    (paths["full"] / "run.lock").touch()
    (paths["full"] / "notes.txt").touch()
    for name in ("bare", "locked", "full", "odd"):
        age(paths[name], 2)
    project.train(until=5)

    assert [name for name in names if paths[name].exists()] == ["young", "full", "odd"]
    assert len(list(paths["full"].iterdir())) == 2


def test_a_launcher_killed_before_its_lock_leaves_something_to_sweep(project) -> None:
    """The real thing: SIGKILL between the draft and its lock, then another start an hour later."""
    script = (
        "import os, sys\n"
        "import llmrun.launch.new_run as fresh\n"
        "fresh.RunLock.acquire = lambda path: os.kill(os.getpid(), 9)\n"
        "from llmrun.cli.app import run\n"
        "run(['train', 'demo.yaml'])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    (draft,) = (project.path / "runs").iterdir()
    assert killed.returncode == -9
    project.train(identity="first", until=5)
    assert draft.exists()
    age(draft, 2)
    project.train(identity="second", until=5)

    assert not draft.exists()
