"""Nothing is dropped without a message: settings of a finished run, rows of the metrics, the learning rate's move."""

import json
import math

import pytest

from llmrun.cli.app import run
from llmrun.errors import InputError
from llmrun.launch.prepared_segment import NothingToDo


def test_a_finished_run_refuses_a_setting_that_it_cannot_use(project) -> None:
    """Exit 2 names the field and both values; the same value, or none, is no reason."""
    project.train()
    before = project.files()
    for setting in ("checkpoint.keep_last=7", "optimizer.lr=0.5"):
        with pytest.raises(InputError) as caught:
            project.prepare_resume(overrides=[setting], allow=["config"])
        assert setting.partition("=")[0] in caught.value.message
        assert setting.partition("=")[2] in caught.value.message
    assert isinstance(project.prepare_resume(overrides=["checkpoint.keep_last=2"]), NothingToDo)
    assert project.files() == before


def test_so_does_a_run_that_stands_where_it_was_asked_to_go(interrupted) -> None:
    """`--until` of a step that is reached already."""
    with pytest.raises(InputError, match="keep_last"):
        interrupted.prepare_resume(overrides=["checkpoint.keep_last=7"], until=10)
    assert isinstance(interrupted.prepare_resume(until=10), NothingToDo)


def test_a_batch_script_may_repeat_its_line(project) -> None:
    """`train CONFIG --run` of a finished run is exit 0, also with other operational fields; other bits are not."""
    project.train()
    project.edit("checkpoint: {every_steps: 5}", "checkpoint: {every_steps: 4}")
    assert isinstance(project.prepare(), NothingToDo)
    project.edit("lr: 1e-3", "lr: 2e-3")
    with pytest.raises(InputError) as caught:
        project.prepare()
    assert "optimizer.lr: 0.001 -> 0.002" in str(caught.value.as_json())


def test_lost_rows_of_the_metrics_are_named(interrupted) -> None:
    """Rows 3, 4 and 7 of 10: two deleted, one not readable."""
    file = interrupted.run.metrics_file
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], *lines[4:6], '{"step": 7, "loss\n', *lines[7:]]))
    interrupted.resume(until=12)

    (said,) = [line for line in interrupted.said if "metrics.jsonl" in line]
    assert said.startswith("warning: ")
    assert "steps 3 to 4, 7;" in said


def test_whole_metrics_are_no_reason_to_warn(interrupted) -> None:
    """No row is missing."""
    interrupted.resume(until=12)

    assert not [line for line in interrupted.said if "metrics.jsonl" in line]


def test_a_changed_horizon_shows_the_rate_before_and_after(interrupted) -> None:
    """T_tokens from 20 to 40 steps, resumed at step 10: cosine from 1e-3 to 1e-4."""
    interrupted.resume(overrides=["T_tokens=40Ki"], allow=["config"], until=12)

    before, now = (1e-4 + 4.5e-4 * (1 + math.cos(math.pi * 11 / steps)) for steps in (20, 40))
    (said,) = [line for line in interrupted.said if line.startswith("learning rate")]
    assert said == f"learning rate of step 11: {now:.6g} now, {before:.6g} before; step 10 had 0.00055"


def test_an_extended_run_says_that_its_decay_starts_again(project) -> None:
    """The last step had the final rate; the next one goes up, and the user is told."""
    project.train()
    project.resume(overrides=["T_tokens=40Ki"], allow=["config"], until=22)

    (said,) = [line for line in project.said if line.startswith("learning rate")]
    assert "step 20 had 0.0001" in said
    assert "the run ended before it" in said


def test_an_unchanged_schedule_says_nothing(interrupted) -> None:
    """Another D or cadence does not touch the rate."""
    interrupted.resume(D=1, overrides=["checkpoint.every_steps=4"], until=12)

    assert not [line for line in interrupted.said if line.startswith("learning rate")]


def close_nothing(project) -> None:
    """run.json as a killed launcher leaves it: the last segment has no end."""
    document = json.loads(project.run.record_file.read_text())
    document["segments"][-1] |= {"to_step": None, "why": None, "ended": None}
    document["status"] = "running"
    project.run.record_file.write_text(json.dumps(document))


@pytest.mark.parametrize("source", ["metrics", "torn", "ledger"])
def test_a_killed_run_is_listed_with_its_true_last_step(interrupted, capsys, source) -> None:
    """From the last row of the metrics, also before a torn one, else from the ledger; `list` and `show` agree."""
    close_nothing(interrupted)
    if source == "torn":
        with interrupted.run.metrics_file.open("a") as file:
            file.write('{"step": 14, "lo')
    if source == "ledger":
        interrupted.run.metrics_file.unlink()

    assert run(["runs", "list", "--json"], as_json=True) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["status"], found["step"]) == ("killed", 13)
    assert run(["runs", "show", "demo"]) == 0
    assert "steps 0 to 13 " in capsys.readouterr().out


def test_a_run_does_not_begin_inside_another(interrupted) -> None:
    """`runs_dir` below a run, whose files are swept and moved: exit 2, nothing made."""
    before = interrupted.files()
    with pytest.raises(InputError) as caught:
        interrupted.prepare(identity=None, overrides=["runs_dir=runs/demo/checkpoints"])

    assert str(caught.value.where) == "runs_dir"
    assert interrupted.files() == before
