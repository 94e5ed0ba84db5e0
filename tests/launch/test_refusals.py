"""Resuming: continue exactly, or refuse with a readable difference."""

import json
import os
import re
import shutil

import pytest

from llmrun.errors import InputError, RefusedError
from llmrun.storage.ledger.reader import LedgerReader


def test_resume_continues_from_the_newest_sound_checkpoint(interrupted):
    """From step 10 to the end; ledger and metrics hold every step once."""
    ended = interrupted.resume()

    assert ended.record.segments[-1].from_step == 10
    assert interrupted.worker_spec(2).checkpoint == "step-00000010"
    assert ended.end.why == "finished"
    ledger = LedgerReader(interrupted.run.ledger_file)
    assert ledger.steps == range(21)
    assert ledger.verify_chain() is None
    steps = [int(n) for n in re.findall(r'"step": (\d+)', interrupted.run.metrics_file.read_text())]
    assert steps == list(range(1, 21))


def test_the_tail_is_kept_and_audited(interrupted):
    """Steps 11 to 13 were recorded once already: the workers are told where."""
    interrupted.resume()

    assert interrupted.worker_spec(2).audit_tails == ["ledger-tail-002.bin"]
    assert LedgerReader(interrupted.run.ledger_tail(2)).steps == range(11, 14)


def test_the_longest_tail_is_audited(interrupted):
    """A resume that dies early does not hide the steps that an earlier tail can prove."""
    interrupted.backend.dies_after = 11
    interrupted.resume()
    interrupted.backend.dies_after = None
    interrupted.resume()

    assert LedgerReader(interrupted.run.ledger_tail(3)).steps == range(11, 12)
    assert interrupted.worker_spec(3).audit_tails == ["ledger-tail-002.bin", "ledger-tail-003.bin"]


def test_a_changed_learning_rate_is_shown_and_stops(interrupted):
    """`optimizer.lr: 0.001 -> 0.0005`, and nothing is started."""
    error = interrupted.refusal(overrides=["optimizer.lr=0.0005"])

    assert error.message == "optimizer.lr: 0.001 -> 0.0005"
    assert error.caused_by == ("config changed since step 10",)
    assert error.hints[1].startswith("`llmrun resume demo --allow config`")


def test_an_edited_config_file_is_detected(interrupted):
    """config.yaml is written once: an edit of a numeric field is refused like an override."""
    text = interrupted.run.config_file.read_text()
    interrupted.run.config_file.write_text(text.replace("lr: 0.001", "lr: 0.0005"))

    assert interrupted.refusal().message == "optimizer.lr: 0.001 -> 0.0005"
    assert "config.yaml was edited since the run was made: optimizer.lr: 0.001 -> 0.0005" in interrupted.said


def test_a_field_of_a_newer_version_is_no_edit(interrupted):
    """run.json and config.yaml of an older version lack a field that the config has now: nobody edited anything."""
    run = interrupted.run
    record = json.loads(run.record_file.read_text())
    del record["config"]["monitor"], record["config"]["batch"]["uneven"]
    run.record_file.write_text(json.dumps(record))
    interrupted.resume()

    assert [line for line in interrupted.said if "was edited" in line] == []
    assert interrupted.record.last.changes == []


def test_an_edited_operational_field_is_told_and_taken(interrupted):
    """An edit that cannot change bits needs no permission."""
    text = interrupted.run.config_file.read_text()
    interrupted.run.config_file.write_text(text.replace("every_steps: 5\n", "every_steps: 4\n"))
    interrupted.resume()

    assert "config.yaml was edited since the run was made: checkpoint.every_steps: 5 -> 4" in interrupted.said
    assert "config: checkpoint.every_steps: 5 -> 4" in interrupted.record.last.changes


def test_a_changed_config_of_train_run_is_refused_in_the_same_words(interrupted):
    """The idempotent line of a batch script with an edited config."""
    interrupted.edit("lr: 1e-3", "lr: 5e-4")

    with pytest.raises(RefusedError) as caught:
        interrupted.prepare()

    assert caught.value.message == "optimizer.lr: 0.001 -> 0.0005"
    assert caught.value.hints[1].startswith("`llmrun train demo.yaml --run demo --allow config`")


def test_allowed_by_name_it_goes_on_and_is_recorded(interrupted):
    """The change, the permission and the new fingerprint stand in the segment; the tail is not audited."""
    interrupted.resume(overrides=["optimizer.lr=0.0005"], allow=["config"], until=15)
    segment = interrupted.record.last

    assert segment.allowed == ["config"]
    assert "config: optimizer.lr: 0.001 -> 0.0005" in segment.changes
    assert segment.fingerprint != interrupted.record.fingerprint["digest"]
    assert list(segment.preimages) == ["config"]
    assert interrupted.worker_spec(2).audit_tails == []
    assert interrupted.worker_spec(2).config["optimizer"]["lr"] == 0.0005


def test_a_change_allowed_once_holds_on(interrupted):
    """The next resume goes on with the new learning rate without being asked again."""
    interrupted.resume(overrides=["optimizer.lr=0.0005"], allow=["config"], until=15)
    interrupted.resume()

    assert interrupted.worker_spec(3).config["optimizer"]["lr"] == 0.0005
    assert interrupted.record.segments[2].fingerprint == interrupted.record.segments[1].fingerprint
    assert interrupted.record.segments[2].allowed == []


def test_going_back_before_a_change_goes_back_to_the_old_config(interrupted):
    """A checkpoint from before the change is bound to what it was made with."""
    interrupted.resume(overrides=["optimizer.lr=0.0005"], allow=["config"])
    interrupted.resume(start="5")

    assert interrupted.worker_spec(3).config["optimizer"]["lr"] == 0.001
    assert interrupted.record.last.fingerprint == interrupted.record.fingerprint["digest"]
    assert interrupted.worker_spec(3).audit_tails == []


def test_permission_without_a_change_is_no_change(interrupted):
    """A batch line that always says --allow code stays audited while nothing changed."""
    interrupted.resume(allow=["code", "environment"])

    assert interrupted.record.last.allowed == []
    assert interrupted.worker_spec(2).audit_tails != []


@pytest.mark.parametrize(
    ("change", "part", "message"),
    [
        (lambda s: s.environment.update(torch="2.14.0"), "environment", "torch: 2.13.0 -> 2.14.0"),
        (
            lambda s: s.source_files.update({"llmrun/core/step.py": "cc" * 32}),
            "code",
            "llmrun/core/step.py: aaaaaaaaaaaa… -> cccccccccccc…",
        ),
        (
            lambda s: s.source_files.update({"my_model/net.py": "cc" * 32}),
            "code",
            "my_model/net.py: (absent) -> cccccccccccc…",
        ),
    ],
)
def test_changed_code_and_environment(interrupted, change, part, message):
    """Refused with key, old and new value; allowed by name."""
    change(interrupted.backend)
    error = interrupted.refusal()

    assert (error.message, error.caused_by) == (message, (f"{part} changed since step 10",))
    assert interrupted.refusal(allow=["config", "data"]).message == message
    interrupted.resume(allow=[part])
    assert interrupted.record.last.allowed == [part]


def test_changed_operational_code_is_no_change(interrupted):
    """A better error message does not make a checkpoint refuse to load."""
    interrupted.backend.source_files["llmrun/cli/app.py"] = "cc" * 32

    assert interrupted.resume().end.why == "finished"


def test_changed_data(interrupted):
    """A dataset replaced in place is named by its parts."""
    from llmrun.data.prepare import prepare

    (interrupted.path / "data").unlink()
    (interrupted.path / "other.txt").write_text("other words, many of them. " * 4000)
    prepare([interrupted.path / "other.txt"], interrupted.path / "data", "byte", val_fraction=0.1)
    error = interrupted.refusal()

    assert error.message == "data changed since step 10"
    assert [re.sub("[0-9a-f]{12}", "H", line) for line in error.caused_by] == [
        "data: train: H… -> H…",
        "data: val: H… -> H…",
    ]


def test_several_kinds_are_shown_together_and_allowed_one_by_one(interrupted):
    """All differences at once, each under its kind."""
    interrupted.backend.environment["torch"] = "2.14.0"
    error = interrupted.refusal(overrides=["optimizer.lr=0.0005", "seed=1"])

    assert error.message == "config and environment changed since step 10"
    assert error.caused_by == (
        "config: optimizer.lr: 0.001 -> 0.0005",
        "config: seed: 42 -> 1",
        "environment: torch: 2.13.0 -> 2.14.0",
    )
    assert "--allow config --allow environment" in error.hints[1]


def test_D_may_change_without_a_word(interrupted):
    """Any D from 1 to V, also an uneven one; without --D the last one holds."""
    interrupted.resume(D=3, until=15)
    interrupted.resume()

    assert [segment.D for segment in interrupted.record.segments] == [2, 3, 3]
    assert interrupted.worker_spec(2).config["batch"]["A"] is None
    assert interrupted.worker_spec(2).fingerprint == interrupted.worker_spec(1).fingerprint
    assert interrupted.worker_spec(2).audit_tails != []


def test_D_by_override_is_the_same_wish(interrupted):
    """`--set batch.D=3` re-derives A like `--D 3`."""
    interrupted.resume(overrides=["batch.D=3"])

    assert interrupted.record.last.D == 3


@pytest.mark.parametrize("D", [5, 100])
def test_D_beyond_V_is_refused(interrupted, D):
    """V is fixed for the life of a run."""
    with pytest.raises(InputError, match=f"got {D}"):
        interrupted.prepare_resume(D=D)


def test_a_segment_left_open_by_a_killed_launcher_is_closed(interrupted, changed):
    """run.json says killed, and how far the ledger reaches."""
    last = changed(interrupted.record.last, why=None, ended=None, to_step=None)
    changed(interrupted.record, status="running", segments=[last]).write(interrupted.run.record_file)
    interrupted.resume()

    assert any("segment 1 " in line and "step 13" in line for line in interrupted.said)
    assert (interrupted.record.segments[0].why, interrupted.record.segments[0].to_step) == ("killed", 13)


def test_a_shortened_ledger_is_named_and_refused(interrupted):
    """A ledger that ends before its checkpoint proves nothing."""
    from llmrun.storage.ledger.writer import cut_back

    cut_back(interrupted.run.ledger_file, 8, interrupted.path / "tail")

    assert interrupted.refusal().message == "the ledger ends at step 8, before the checkpoint of step 10"


def test_a_ledger_of_another_history_is_refused(project):
    """The chain at the checkpoint's step must be the one it was saved with."""
    project.backend.salt = 1
    project.train(identity="other", until=12)
    project.backend.salt = 0
    project.train(until=12)
    shutil.copy(project.path / "runs" / "other" / "ledger.bin", project.run.ledger_file)

    refusal = project.refusal()
    assert str(refusal.where) == str(project.run.ledger_file)
    assert "step-00000012" in refusal.message


def test_a_missing_ledger_is_refused(interrupted):
    """Checkpoints without a ledger are not continued."""
    interrupted.run.ledger_file.unlink()

    assert interrupted.refusal().message == "demo has checkpoints and no ledger"


def test_a_foreign_checkpoint_is_refused(project):
    """A checkpoint copied in from another run."""
    project.train(identity="other", overrides=["seed=1"], until=6)
    project.train(until=5)
    shutil.copy(project.path / "runs" / "other" / "ledger.bin", project.run.ledger_file)
    shutil.copytree(
        project.path / "runs" / "other" / "checkpoints" / "step-00000006",
        project.run.checkpoints / "step-00000006",
    )

    assert project.refusal().message.startswith("step-00000006 was not written by demo")


def test_a_locked_run_is_refused_with_its_owner(interrupted):
    """Two resumes of one run at once."""
    prepared = interrupted.prepare_resume()
    error = interrupted.refusal()
    prepared.lock.release()

    assert f"(PID {os.getpid()})" in error.message


def test_temporaries_of_a_crashed_save_are_swept(interrupted):
    """A half-written checkpoint is gone after the next start."""
    (interrupted.run.checkpoints / ".tmp-step-00000015-x").mkdir()
    interrupted.resume()

    assert not list(interrupted.run.checkpoints.glob(".tmp-*"))


def test_a_moved_run_goes_on(interrupted):
    """Nothing in a run depends on its own path; its data is found from where it was started."""
    elsewhere = interrupted.path / "elsewhere"
    elsewhere.mkdir()
    (interrupted.path / "runs" / "demo").rename(elsewhere / "demo")
    (interrupted.path / "runs").rmdir()
    (interrupted.path / "runs").symlink_to(elsewhere)
    os.chdir(elsewhere)

    assert interrupted.resume().end.why == "finished"
