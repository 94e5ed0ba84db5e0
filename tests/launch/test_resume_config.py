"""The config that a run continues with: of the segment its checkpoint belongs to, then what was edited or set since."""

import pytest

from llmrun.errors import ConfigError, RefusedError


def changed_by_train(project, **wished):
    """`llmrun train demo.yaml --run demo --allow config` with another rate and another cadence, to step 15."""
    project.edit("lr: 1e-3", "lr: 5e-4")
    project.edit("checkpoint: {every_steps: 5}", "checkpoint: {every_steps: 5, keep_last: 3}")
    project.train(allow=["config"], until=15, **wished)


def test_a_config_allowed_through_train_holds_on(interrupted):
    """`resume` goes on with the edited CONFIG, numeric and operational fields alike, and asks nothing."""
    changed_by_train(interrupted)
    interrupted.resume()

    config = interrupted.worker_spec(3).config
    assert (config["optimizer"]["lr"], config["checkpoint"]["keep_last"]) == (0.0005, 3)
    assert interrupted.record.segments[2].fingerprint == interrupted.record.segments[1].fingerprint
    assert interrupted.record.last.allowed == []


def test_what_is_set_comes_on_top(interrupted):
    """This command's `--set` wins, the rest of the segment's config stays; a numeric one is refused by itself."""
    changed_by_train(interrupted)

    assert interrupted.refusal(overrides=["seed=1"]).message == "seed: 42 -> 1"
    interrupted.resume(overrides=["checkpoint.keep_last=4"])
    config = interrupted.worker_spec(3).config
    assert (config["optimizer"]["lr"], config["checkpoint"]["keep_last"]) == (0.0005, 4)


def test_a_checkpoint_from_before_the_change_has_the_config_from_before(interrupted):
    """Going back to step 5 goes back to the first segment's config, and to no other."""
    changed_by_train(interrupted)
    interrupted.resume(start="5")

    config = interrupted.worker_spec(3).config
    assert (config["optimizer"]["lr"], config["checkpoint"]["keep_last"]) == (0.001, 2)
    assert interrupted.record.last.fingerprint == interrupted.record.fingerprint["digest"]


def test_another_V_and_batch_hold_on(interrupted):
    """The batch is resolved anew for the last D, also where that divides neither the old nor the new V."""
    interrupted.edit("batch: {GB_tok: 1Ki", "batch: {GB_tok: 2Ki")
    interrupted.edit("V: 4", "V: 2")
    interrupted.edit("T_tokens: 20Ki", "T_tokens: 40Ki")
    interrupted.train(allow=["config"], until=15)
    interrupted.resume(until=16)
    batch = interrupted.worker_spec(3).config["batch"]

    assert (batch["GB_tok"], batch["V"], batch["D"], batch["A"]) == (2048, 2, 2, 4)


def edit_on_disk(project, old, new):
    """Edit the run's own config.yaml."""
    text = project.run.config_file.read_text()
    assert old in text
    project.run.config_file.write_text(text.replace(old, new))


def test_an_edit_of_config_yaml_after_the_change_counts(interrupted):
    """It is newer than the segment: an operational field is taken, a numeric one refused."""
    changed_by_train(interrupted)
    edit_on_disk(interrupted, "keep_last: 2", "keep_last: 7")
    interrupted.resume(until=16)

    assert interrupted.worker_spec(3).config["checkpoint"]["keep_last"] == 7
    assert interrupted.record.last.edits == {"checkpoint.keep_last": 7}
    edit_on_disk(interrupted, "lr: 0.001", "lr: 0.0001")
    assert interrupted.refusal().message == "optimizer.lr: 0.0005 -> 0.0001"


def test_an_edit_from_before_the_change_does_not_come_back(interrupted):
    """config.yaml said 7 when CONFIG with 3 was trained: 3 is the later word."""
    edit_on_disk(interrupted, "keep_last: 2", "keep_last: 7")
    changed_by_train(interrupted)
    interrupted.resume()

    assert interrupted.worker_spec(3).config["checkpoint"]["keep_last"] == 3


def test_an_edit_that_is_put_back_counts_too(interrupted):
    """What config.yaml says again is the newest word."""
    edit_on_disk(interrupted, "keep_last: 2", "keep_last: 7")
    interrupted.resume(until=15)
    edit_on_disk(interrupted, "keep_last: 7", "keep_last: 2")
    interrupted.resume()

    assert interrupted.worker_spec(2).config["checkpoint"]["keep_last"] == 7
    assert interrupted.worker_spec(3).config["checkpoint"]["keep_last"] == 2


def test_an_edited_D_is_taken(interrupted):
    """config.yaml with other ranks is a wish like any other; `--D` wins."""
    edit_on_disk(interrupted, "D: 2", "D: 4")
    edit_on_disk(interrupted, "A: 2", "A: 1")
    interrupted.resume(until=15)
    interrupted.resume(D=3)

    assert [segment.D for segment in interrupted.record.segments] == [2, 4, 3]


def test_without_a_worker_spec_the_record_is_used(interrupted):
    """The user may delete logs: then config.yaml and the recorded `--set` values count, and the user is notified."""
    interrupted.resume(overrides=["optimizer.lr=0.0005"], allow=["config"], until=15)
    interrupted.run.worker_spec_file(2).unlink()
    interrupted.resume()

    assert interrupted.worker_spec(3).config["optimizer"]["lr"] == 0.0005
    assert any(str(interrupted.run.worker_spec_file(2)) in line for line in interrupted.said)


def test_damaged_orders_are_no_bug(interrupted):
    """Half a file is like none."""
    changed_by_train(interrupted)
    interrupted.run.worker_spec_file(2).write_text('{"format": "llmrun-orders/1", "con')

    with pytest.raises(RefusedError, match=r"optimizer\.lr: 0\.0005 -> 0\.001"):
        interrupted.prepare_resume()


def test_a_stated_A_is_held_against_the_last_D(interrupted):
    """`--set batch.A=2` agrees with D = 2 of the last segment; 4 does not, and the user's numbers say so."""
    interrupted.resume(overrides=["batch.A=2"], until=15)
    assert interrupted.record.last.D == 2
    with pytest.raises(ConfigError) as caught:
        interrupted.prepare_resume(overrides=["batch.A=4"])

    assert (
        caught.value.message
        == "A = 4 does not agree with GB_tok = D·A·μ_tok: 2 × 4 × 256 is 2,048, not 1,024"
    )
