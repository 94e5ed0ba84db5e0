"""A migrated run is a run: it trains on, on any D, killed or not, with bits that depend on nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest

from llmrun.errors import InputError, LlmrunError, RefusedError
from llmrun.migrate.new_run import migrate
from llmrun.run.record import read_record
from llmrun.storage.checkpoint.verification import open_verified
from llmrun.storage.ledger.reader import LedgerReader
from warm.bits import assert_equal_runs, chain_of
from warm.driver import STEPS
from warm.pool import dying

BIGGER = ("model.n_layers=3", "model.d_ff=64")
UNCHANGED = "def migrate(old, new):\n    return old\n"


def test_a_deeper_and_wider_model_trains_on(driver, pool, migrator, grow):
    """2 layers become 3 and d_ff 43 becomes 64: the run goes on at step 7 and ends, with a falling loss."""
    migrated = migrator.migrate(pool, "bigger", grow, *BIGGER)
    ended = driver.resume(pool, "bigger")
    ledger = LedgerReader(driver.run("bigger").ledger_file)

    assert (len(migrated.state.initialised), len(migrated.state.mixed), migrated.state.dropped) == (9, 6, [])
    assert (ended.record.segments[0].from_step, ended.step, ended.end.why) == (6, STEPS, "finished")
    assert ledger.steps == range(7, STEPS + 1)
    assert ledger.verify_chain() is None
    losses = [ledger.record(step).loss for step in ledger.steps]
    assert losses[-1] < losses[0] < 4.6  # what the old model had learned is there: untrained it is 5.5


def test_a_migration_that_changes_nothing_has_the_bits_of_the_run_that_went_on(driver, pool, migrator):
    """The same config and `return old`: every further loss and every tensor are those of a straight run."""
    driver.train(pool, "straight")
    migrator.migrate(pool, "same", UNCHANGED)
    driver.resume(pool, "same", D=2)
    straight, same = (LedgerReader(driver.run(name).ledger_file) for name in ("straight", "same"))

    for step in same.steps:
        one, other = straight.record(step), same.record(step)
        assert (one.loss, one.weights_digest, one.optimizer_digest, one.tokens) == (
            other.loss,
            other.weights_digest,
            other.optimizer_digest,
            other.tokens,
        )


def test_a_run_goes_on_under_muon(driver, pool, migrator):
    """A state of AdamW, migrated, trains on under Muon: on 1 and 2 ranks with one history, and with a falling loss."""
    for name, D in (("one", 1), ("two", 2)):
        migrator.migrate(pool, name, UNCHANGED, "optimizer.name=muon")
        driver.resume(pool, name, D=D)
    ledger = LedgerReader(driver.run("one").ledger_file)
    assert chain_of(driver.run("one")) == chain_of(driver.run("two"))
    assert ledger.record(STEPS).loss < ledger.record(7).loss


def test_the_bits_do_not_depend_on_D_nor_on_a_kill(driver, server, pool, migrator, migrator_of_two, grow):
    """Old run on D = 1 or 2, new run on D = 1 or 2, written in one group or many, killed: one history."""
    migrator.migrate(pool, "a", grow, *BIGGER)
    driver.resume(pool, "a", D=1)
    migrator_of_two.migrate(pool, "b", grow, *BIGGER, group_bytes=50_000)
    driver.resume(dying(server, 8), "b", D=2)
    ended = driver.resume(pool, "b", D=1)
    a, b = driver.run("a"), driver.run("b")

    assert ended.record.segments[-1].from_step == 6
    assert ended.end.proven_steps == 2
    assert (
        read_record(a.record_file).fingerprint["digest"] == read_record(b.record_file).fingerprint["digest"]
    )
    assert_equal_runs(a, b, STEPS)


def test_another_origin_is_another_fingerprint(driver, pool, migrator, grow):
    """The fingerprint holds what a run begins with: a run from scratch, or other initial values, differ in it."""
    other = grow.replace("state[name] = new.init(name)", "state[name] = new.zeros(name)")
    migrator.migrate(pool, "init", grow, *BIGGER)
    migrator.migrate(pool, "zeros", other, *BIGGER)
    driver.train(pool, "scratch", *BIGGER, until=1)
    runs = [driver.run(name) for name in ("init", "zeros", "scratch")]
    parts = [read_record(run.record_file).fingerprint["parts"] for run in runs]

    assert len({part["config"] for part in parts}) == 3
    assert len({(part["data"], part["code"], part["environment"]) for part in parts}) == 1
    assert LedgerReader(runs[0].ledger_file).chain != LedgerReader(runs[1].ledger_file).chain


def test_where_it_came_from_is_written_down(driver, pool, migrator, grow):
    """Parent, script and what is new stand in the checkpoint and in the run, and no path of the old run does."""
    migrated = migrator.migrate(pool, "bigger", grow, *BIGGER)
    checkpoint = open_verified(migrated.checkpoint)
    run = driver.run("bigger")
    document = json.loads(run.migration_file.read_text())
    found = dict(checkpoint.trainer["migration"])
    script = dict(found.pop("script"))
    parent = migrated.parent

    assert script.pop("text") == grow == run.migration_script.read_text()
    assert {**found, "script": script} == document
    assert document["parent"]["step"] == checkpoint.step == 6
    assert document["parent"]["fingerprint"] == parent.manifest.fingerprint
    sums = (parent.path / "SHA256SUMS").read_text()
    assert f"{document['parent']['manifest_sha256']}  manifest.json" in sums
    assert document["initialised"] == [
        name
        for name in checkpoint.manifest.tensors
        if "layers.2." in name and not name.endswith(("avg", "_sq"))
    ]
    assert str(migrator.old.parent) not in run.migration_file.read_text()


def test_a_migrated_run_has_no_step_0(driver, pool, migrator):
    """`--from 0`, or a run whose migrated checkpoint is gone, is refused in words."""
    migrator.migrate(pool, "same", UNCHANGED)
    with pytest.raises(
        InputError, match="cannot start same from step 0: it begins at step 6 with a migrated state"
    ):
        driver.resume(pool, "same", start="0")
    checkpoint = driver.run("same").checkpoints / "step-00000006"
    checkpoint.rename(driver.directory / "elsewhere")
    with pytest.raises(InputError, match="begins at step 6 with a migrated state"):
        driver.resume(pool, "same")


def test_a_resume_with_another_architecture_points_to_migrate(driver, pool, old_runs, migrator):
    """Shapes that differ are refused before anything starts, whatever is allowed; the hint is the command."""
    for allow in ((), ("config",)):
        driver.train(pool, f"old{len(allow)}", until=1)
        with pytest.raises(RefusedError) as caught:
            driver.resume(pool, f"old{len(allow)}", "model.n_layers=3", allow=allow)

        assert (
            caught.value.message == "step-00000001 is a state of another architecture: model.n_layers: 2 -> 3"
        )
        assert "model.layers.2.input_layernorm.weight: absent in the checkpoint, 72 in the model" in (
            caught.value.caused_by
        )
        assert caught.value.hints[1].startswith("`llmrun migrate ")


def test_what_refuses_leaves_nothing_behind(driver, pool, migrator, grow):
    """A place that is taken, no steps left, a script that fails while values are made: runs/ stays empty."""
    runs = driver.directory / "runs"
    late = grow.replace("return fresh", "return fresh[:1]")
    with pytest.raises(InputError, match="T_tokens of the new config must be more than the 6 steps"):
        migrator.migrate(pool, "new", grow, "T_tokens=3Ki", *BIGGER)
    with pytest.raises(InputError, match="the shape of"):
        migrator.migrate(pool, "new", late, *BIGGER)
    assert not runs.exists() or list(runs.iterdir()) == []

    migrator.migrate(pool, "new", grow, *BIGGER)
    with pytest.raises(InputError, match="new exists"):
        migrator.migrate(pool, "new", grow, *BIGGER)
    assert [path.name for path in runs.iterdir()] == ["new"]


def test_what_else_changed_is_told(pool, migrator):
    """Another batch reads on at another sequence: said, as the old run's order is not gone on with."""
    migrator.migrate(pool, "other", UNCHANGED, "batch.GB_tok=1Ki", "T_tokens=16Ki")

    assert any("read 96 sequences" in line and "at sequence 192" in line for line in migrator.said)


def test_the_optimizer_goes_on_where_it_was(driver, pool, migrator, grow):
    """Moments of old values are the old ones, those of new values are zeros, and AdamW's count is kept."""
    migrated = migrator.migrate(pool, "bigger", grow, *BIGGER)
    new, old = open_verified(migrated.checkpoint), migrated.parent
    name = "model.layers.1.mlp.up_proj.weight"

    assert new.trainer["optimizer"]["step"] == 6
    for slot in ("exp_avg", "exp_avg_sq"):
        wide, narrow = new.read_all(f"{name}.{slot}"), old.read_all(f"{name}.{slot}")
        assert np.array_equal(wide[:43], narrow)
        assert np.any(narrow)
        assert not wide[43:].any()
        assert not new.read(f"model.layers.2.mlp.up_proj.weight.{slot}").any()
    assert chain_of(driver.run("bigger")) == new.manifest.chain


def test_advice_is_about_out(migrator, pool, tmp_path):
    """A place that cannot be used is said with the one option that chooses it."""
    order = migrator.order("new", UNCHANGED)
    (tmp_path / "file").write_text("not a directory")
    wrong = replace(order, out=tmp_path / "file" / "new")
    with pytest.raises(LlmrunError) as caught:
        migrate(wrong, pool, migrator.said.append, lambda *_: None, lambda *_: None)

    assert caught.value.hints == ("free space, or choose another place with `--out`",)


def test_a_migration_into_a_run_is_refused(migrator, pool):
    """`--out` among another run's checkpoints, where retention deletes: exit 2, nothing written."""
    order = migrator.order("new", UNCHANGED)
    place = migrator.old / "checkpoints"
    before = sorted(place.rglob("*"))
    with pytest.raises(InputError) as caught:
        migrate(
            replace(order, out=place / "new"), pool, migrator.said.append, lambda *_: None, lambda *_: None
        )

    assert str(caught.value.where) == "--out"
    assert caught.value.hints == ("free space, or choose another place with `--out`",)
    assert sorted(place.rglob("*")) == before
