"""Names and paths of a run's directory."""

import re
import shutil
from datetime import UTC, datetime

import pytest

from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory, draft_directory, find_run, run_id, runs_below


def make_run(path):
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    return path


def test_paths_of_the_design(tmp_path):
    """Every path of the documented layout."""
    run = RunDirectory(tmp_path / "demo")
    names = {
        run.record_file: "run.json",
        run.config_file: "config.yaml",
        run.provenance: "provenance",
        run.segment_provenance(1): "provenance",
        run.segment_provenance(12): "provenance/segment-012",
        run.ledger_file: "ledger.bin",
        run.ledger_tensors: "ledger-tensors",
        run.ledger_tail(3): "ledger-tail-003.bin",
        run.metrics_file: "metrics.jsonl",
        run.tensorboard: "tensorboard",
        run.checkpoints: "checkpoints",
        run.lock_file: "run.lock",
        run.worker_spec_file(1): "logs/segment-001/orders.json",
        run.rank_log(1, 0): "logs/segment-001/rank-0.log",
        run.outcome_file(2, 7): "logs/segment-002/rank-7.outcome.json",
        run.stop_file(2): "logs/segment-002/stop",
        run.torchrun_log(2): "logs/segment-002/torchrun.log",
        run.failures_file(2): "logs/segment-002/failures.json",
    }

    assert {path.relative_to(run.path).as_posix(): name for path, name in names.items()} == {
        name: name for name in names.values()
    }


def test_new_identities_differ_and_tell_the_time():
    """Two runs started in the same second have different names."""
    now = datetime(2026, 11, 24, 9, 5, 7, tzinfo=UTC)
    names = {run_id("demo", now) for _ in range(8)}

    assert len(names) > 1
    assert all(re.fullmatch(r"demo-20261124-090507-[0-9a-f]{4}", name) for name in names)


def test_a_draft_is_no_run_and_is_hidden(tmp_path):
    """A half-made run is neither found nor listed."""
    draft = draft_directory(tmp_path / "runs", "demo")
    draft.record_file.write_text("{}")

    assert list(runs_below(tmp_path / "runs")) == []
    with pytest.raises(InputError):
        find_run("demo", tmp_path / "runs")


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_runs_dir_that_cannot_be_made_is_refused(tmp_path, kind):
    """A file where runs should lie is an error of the input, with the way out."""
    (tmp_path / "runs").write_text("")
    wished = tmp_path / "runs" if kind == "file" else tmp_path / "runs" / "deeper"

    with pytest.raises(InputError) as caught:
        draft_directory(wished, "demo")

    assert any("--set runs_dir=DIR" in hint for hint in caught.value.hints)


def test_find_by_name_by_path_and_after_a_move(tmp_path, monkeypatch):
    """A run is found wherever it lies: nothing in it depends on its own path."""
    monkeypatch.chdir(tmp_path)
    made = make_run(tmp_path / "runs" / "demo-20261124-090507-abcd")

    assert find_run("demo-20261124-090507-abcd").path.resolve() == made
    assert find_run(str(made)).path == made
    shutil.move(made, tmp_path / "elsewhere")
    assert find_run("elsewhere").name == "elsewhere"


def test_an_unknown_name_gets_the_nearest(tmp_path):
    """A slip of the finger, and the beginning of a name."""
    make_run(tmp_path / "demo-20261124-090507-abcd")
    make_run(tmp_path / "other")

    with pytest.raises(InputError) as slip:
        find_run("demo-20261124-090507-abce", tmp_path)
    with pytest.raises(InputError) as beginning:
        find_run("demo", tmp_path)

    assert slip.value.message == "there is no run demo-20261124-090507-abce"
    assert slip.value.hints == ("did you mean demo-20261124-090507-abcd",)
    assert beginning.value.hints == slip.value.hints


def test_no_runs_at_all_says_how_to_start_one(tmp_path):
    """In an empty place the hint is how to start."""
    with pytest.raises(InputError) as caught:
        find_run("demo", tmp_path / "runs")

    assert caught.value.hints == (
        f"there are no runs below {tmp_path / 'runs'}; `llmrun train CONFIG` starts one",
    )


def test_a_directory_that_is_no_run_is_told_apart(tmp_path):
    """A directory without run.json is there, but no run."""
    (tmp_path / "notes").mkdir()

    with pytest.raises(InputError, match=r"is not a run's directory: it has no run\.json"):
        find_run(str(tmp_path / "notes"), tmp_path)
