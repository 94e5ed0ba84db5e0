"""One run, executed again: real workers, and nothing written into the run."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmrun.cli.app import run as command
from llmrun.data.prepare import prepare
from llmrun.errors import InputError, RefusedError, RunFailedError
from llmrun.run.directory import RunDirectory
from llmrun.run.record import read_record
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.ledger.chain import next_chain
from llmrun.storage.ledger.reader import HEADER_BYTES, LedgerReader
from llmrun.storage.ledger.record import RECORD_BYTES, LedgerRecord
from llmrun.verify.replay.audit import ReplayRequest, replay_run
from llmrun.verify.replay.execute import Executor
from llmrun.verify.replay.plan import draw_windows
from llmrun.verify.replay.render import lines_of_replay
from warm.driver import STEPS, Driver, Silent
from warm.pool import PoolBackend

KEEP = "checkpoint.keep_last=10"


@pytest.fixture(scope="module")
def made(server, dataset, tmp_path_factory):
    """A finished run with all its checkpoints: steps 5, 10, 15 and 16."""
    directory = tmp_path_factory.mktemp("replayed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        driver = Driver(directory, dataset)
        driver.train(PoolBackend(server), "made", KEEP)
    return driver.run("made")


@pytest.fixture
def copied(made, tmp_path):
    """A copy of that run, to damage."""
    shutil.copytree(made.path, tmp_path / "copied")
    return RunDirectory(tmp_path / "copied")


@pytest.fixture
def executor(pool, tmp_path):
    """Warm workers and a place for them."""
    return executor_in(tmp_path, pool)


def executor_in(tmp_path, backend, **options) -> Executor:
    scratch = tmp_path / f"scratch-{sum(1 for _ in tmp_path.iterdir())}"
    scratch.mkdir()
    return Executor(backend, Silent(), scratch, **options)


def everything_in(directory: Path) -> dict[str, tuple[int, str]]:
    """Every path below a directory with its time of change and the hash of its content."""
    return {
        path.relative_to(directory).as_posix(): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [directory, *directory.rglob("*")]
    }


def rewrite(run: RunDirectory, step: int, **values) -> None:
    """Edit a record and chain everything after it anew: a forger who knows the format."""
    ledger = LedgerReader(run.ledger_file)
    chain = ledger.chain_at(step - 1)
    content = bytearray(run.ledger_file.read_bytes())
    for at in range(step, ledger.last_step + 1):
        record: LedgerRecord = ledger.record(at)
        if at == step:
            record = replace(record, **values)
        chain = next_chain(chain, record.body())
        start = HEADER_BYTES + at * RECORD_BYTES
        content[start : start + RECORD_BYTES] = record.body() + chain
    run.ledger_file.write_bytes(content)


@pytest.mark.parametrize("D", [1, 2, 3])
def test_steps_come_out_again_on_any_D(made, tmp_path, pool, D):
    """From a checkpoint and on 1, 2 or 3 ranks: every record, and every byte of the checkpoints on the way."""
    replay = replay_run(made.path, ReplayRequest(from_step=5, steps=8), executor_in(tmp_path, pool, D=D))
    verdict = replay.verdict

    assert verdict.equal
    assert (verdict.steps_compared, verdict.last_step, verdict.complete) == (8, 13, False)
    assert verdict.fingerprints.equal
    assert verdict.chain == LedgerReader(made.ledger_file).chain_at(13).hex()
    assert (verdict.checkpoints, verdict.tensors_compared) == ((10,), 60)
    assert replay.executed[0].step_seconds > 0
    assert replay.executed[0].wall_seconds > 8 * replay.executed[0].step_seconds
    assert verdict.outcome == "equal"
    assert lines_of_replay(replay)[-1].tone == "good"


def test_the_whole_run_comes_out_again_from_nothing(made, executor):
    """From step 0: the initial weights too, so the chain is the run's own."""
    verdict = replay_run(made.path, ReplayRequest(from_step=0, steps=STEPS), executor).verdict

    assert (verdict.equal, verdict.complete, verdict.steps_compared) == (True, True, STEPS)
    assert verdict.checkpoints == (5, 10, 15, 16)
    assert verdict.chain == LedgerReader(made.ledger_file).chain.hex()
    again = next(executor.scratch.rglob("ledger.bin"))
    assert LedgerReader(again).chain.hex() == verdict.chain


def test_nothing_is_written_into_the_run(made, executor):
    """Not one file, not one time of change; the scratch directory has no copy of a checkpoint."""
    before = everything_in(made.path)
    replay_run(made.path, ReplayRequest(windows=2, steps=3), executor)

    assert everything_in(made.path) == before
    assert list(executor.scratch.rglob("*.safetensors")) == []


def test_the_default_is_the_last_checkpoint_with_steps_after_it(made, executor):
    """Step 16 is saved, but nothing follows it: step 16 is executed from step 15."""
    replay = replay_run(made.path, ReplayRequest(), executor)

    assert (replay.executed[0].planned.start.step, replay.executed[0].planned.until_step) == (15, 16)


def test_a_step_between_checkpoints_is_reached_from_the_one_before(made, executor):
    """All steps on the way are compared too."""
    replay = replay_run(made.path, ReplayRequest(from_step=7, steps=1), executor)

    assert (replay.executed[0].planned.start.step, replay.verdict.steps_compared) == (5, 3)


@pytest.mark.parametrize(
    ("values", "quantity"),
    [
        ({"loss": 1.25}, "loss"),
        ({"tokens_digest": 7}, "data"),
        ({"weights_digest": 7}, "weights"),
    ],
)
def test_a_forged_record_is_found(copied, executor, values, quantity):
    """Chained anew, so that the ledger holds: only executing the step tells."""
    rewrite(copied, 8, **values)
    verdict = replay_run(copied.path, ReplayRequest(from_step=5, steps=5), executor).verdict

    assert LedgerReader(copied.ledger_file).verify_chain() is None
    assert (verdict.equal, verdict.finding.step, verdict.finding.quantity) == (False, 8, quantity)
    assert verdict.steps_compared == 2
    assert "the fingerprint here is that of the run" in verdict.finding.diagnosis
    assert verdict.chain is None


def test_tensors_are_named_where_both_kept_them(made, tmp_path, server):
    """At a step with a checkpoint its manifest has the digests; the workers keep theirs at the first difference."""
    faulty = PoolBackend(server, "flip_weight_bit", step=9, bit=0)
    finding = replay_run(
        made.path, ReplayRequest(from_step=5, steps=5), executor_in(tmp_path, faulty)
    ).verdict.finding

    assert (finding.step, finding.tensors_step, finding.quantity) == (10, 10, "weights")
    assert finding.tensors == ("model.embed_tokens.weight",)


def swap(run: RunDirectory, step: int, other: RunDirectory) -> None:
    """Another run's checkpoint of the same step in the place of this one's."""
    name = f"step-{step:08d}"
    shutil.rmtree(run.checkpoints / name)
    shutil.copytree(other.checkpoints / name, run.checkpoints / name)


@pytest.fixture(scope="module")
def stranger(server, dataset, tmp_path_factory):
    """A run of another seed."""
    directory = tmp_path_factory.mktemp("stranger")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        driver = Driver(directory, dataset)
        driver.train(PoolBackend(server), "stranger", KEEP, "seed=7")
    return driver.run("stranger")


def test_a_swapped_checkpoint_on_the_way_is_found(copied, stranger, executor):
    """The ledger is right, the checkpoint is not what its steps lead to: its tensors are named."""
    swap(copied, 10, stranger)
    finding = replay_run(copied.path, ReplayRequest(from_step=5, steps=8), executor).verdict.finding

    assert (finding.step, finding.quantity) == (10, "weights")
    assert len(finding.tensors) == 60
    assert finding.diagnosis.startswith(
        "checkpoint step-00000010 is not the state that the steps before it lead to"
    )


def test_a_swapped_checkpoint_at_the_start_is_found_before_anything_runs(copied, stranger, executor):
    """It is held against the ledger first."""
    swap(copied, 5, stranger)
    replay = replay_run(copied.path, ReplayRequest(from_step=5, steps=2), executor)

    assert (replay.verdict.finding.step, replay.verdict.finding.quantity, replay.executed) == (
        5,
        "weights",
        (),
    )
    assert list(executor.scratch.iterdir()) == []
    assert replay.verdict.outcome == "damaged"
    assert "step-00000005" in replay.verdict.damage[0]
    assert [line.tone for line in lines_of_replay(replay) if line.tone] == ["bad"]


def test_a_damaged_checkpoint_is_passed_over_and_told(copied, executor):
    """The older one is taken; the verdict is not `equal`, because the run is not sound."""
    file = next((copied.checkpoints / "step-00000010").glob("model-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    verdict = replay_run(copied.path, ReplayRequest(from_step=10, steps=3), executor).verdict

    assert (verdict.equal, verdict.steps_compared) == (False, 8)
    assert verdict.finding.step == 10
    assert "step-00000010" in verdict.damage[0]


def test_an_edited_record_ends_what_is_executed(copied, executor):
    """A record whose chain does not hold is damage; the steps before it still count."""
    content = bytearray(copied.ledger_file.read_bytes())
    content[HEADER_BYTES + 9 * RECORD_BYTES + 16] ^= 1
    copied.ledger_file.write_bytes(content)
    verdict = replay_run(copied.path, ReplayRequest(from_step=5, steps=8), executor).verdict

    assert (verdict.equal, verdict.finding.step, verdict.finding.quantity) == (False, 9, None)
    assert verdict.steps_compared == 3
    with pytest.raises(InputError, match="is sound up to step 8"):
        replay_run(copied.path, ReplayRequest(from_step=8), executor)


def test_a_fault_in_the_workers_here_is_a_difference(made, tmp_path, server):
    """Not only the run may be wrong."""
    faulty = PoolBackend(server, "flip_weight_bit", step=7)
    verdict = replay_run(
        made.path, ReplayRequest(from_step=5, steps=5), executor_in(tmp_path, faulty)
    ).verdict

    assert (verdict.finding.step, verdict.finding.quantity) == (8, "loss")


def test_workers_that_fail_are_an_error_and_not_a_difference(made, tmp_path, server):
    """Nothing is concluded from a replay that did not come to its end."""
    failing = PoolBackend(server, "poison", step=7, number=3)
    with pytest.raises(RunFailedError, match="the loss of step 7 is nan") as failure:
        replay_run(made.path, ReplayRequest(from_step=5, steps=5), executor_in(tmp_path, failing))

    assert [hint for hint in failure.value.hints if "scratch" in hint] == []


def test_a_change_on_the_way_is_followed(driver, pool, tmp_path):
    """Steps 1 to 6 under one config, 7 on under another: each is executed under its own, in one go."""
    driver.train(pool, "changed", "checkpoint.every_steps=100", until=6)
    driver.resume(pool, "changed", "optimizer.weight_decay=0.2", allow=["config"], until=9)
    shutil.rmtree(driver.run("changed").logs)
    shutil.rmtree(driver.run("changed").checkpoints / "step-00000006")
    replay = replay_run(
        driver.run("changed").path, ReplayRequest(from_step=0, steps=9), executor_in(tmp_path, pool)
    )

    assert replay.verdict.equal
    assert [
        replay_environment.resolved.config.optimizer.weight_decay
        for replay_environment in replay.executed[0].replay_environments
    ] == [
        0.1,
        0.2,
    ]
    assert replay.verdict.checkpoints == (9,)


def test_edits_of_the_config_file_count_for_nothing(copied, executor):
    """What the run recorded is executed."""
    copied.config_file.write_text(copied.config_file.read_text().replace("lr: 0.003", "lr: 0.3"))

    assert replay_run(copied.path, ReplayRequest(from_step=10, steps=2), executor).verdict.equal


def test_an_edited_record_of_the_run_is_refused(copied, executor):
    """A config that is not the one of the fingerprint cannot be executed as the run's."""
    document = json.loads(copied.record_file.read_text())
    document["fingerprint"]["preimages"]["config"]["optimizer"]["lr"] = 0.3
    copied.record_file.write_text(json.dumps(document))

    with pytest.raises(Exception, match="contradicts itself") as refusal:
        replay_run(copied.path, ReplayRequest(), executor)
    assert refusal.value.exit_code == 1


def test_an_interrupted_run_is_replayed_as_far_as_it_came(driver, pool, tmp_path):
    """Also while run.json says that it is running."""
    driver.train(pool, "part", until=7)
    run = driver.run("part")
    record = read_record(run.record_file)
    last = replace(record.segments[-1], why=None, to_step=None, ended=None)
    replace(record, status="running", segments=[last]).write(run.record_file)
    verdict = replay_run(run.path, ReplayRequest(), executor_in(tmp_path, pool)).verdict

    assert (verdict.equal, verdict.last_step) == (True, 7)
    assert len(verdict.notes) == 1


def test_windows_start_from_the_nearest_checkpoint_and_share_it(made, executor):
    """All windows of a run: steps on the way may be executed twice, and are counted once."""
    replay = replay_run(made.path, ReplayRequest(windows=100, steps=4), executor)
    ranges = [(done.planned.start.step, done.planned.until_step) for done in replay.executed]
    document = replay.as_json()["replay"]["windows"]

    assert replay.verdict.equal
    assert ranges == [(0, 8), (5, 12), (10, 16)]
    assert (replay.verdict.steps_compared, replay.verdict.complete) == (STEPS, True)
    assert replay.draw.windows == ((1, 4), (5, 8), (9, 12), (13, 16))
    assert [entry["at_most"] for entry in document["escape"]] == [0.0, 0.0, 0.0, 0.0]


def test_a_falsified_step_is_caught_by_the_window_that_holds_it(copied, executor):
    """The draw of a seed that covers the step finds it, the report names it."""
    rewrite(copied, 14, grad_norm=1.0)
    chain = LedgerReader(copied.ledger_file).chain
    seed = next(s for s in range(99) if draw_windows(chain, s, STEPS, 4, 1).windows == ((13, 16),))
    finding = replay_run(copied.path, ReplayRequest(windows=1, steps=4, seed=seed), executor).verdict.finding

    assert (finding.step, finding.quantity) == (14, "grad_norm")


def test_what_cannot_be_executed_is_refused(made, runs, driver, pool, tmp_path, executor):
    """Statistical mode, a step beyond the ledger, a D beyond V, a dataset that is gone, no run at all."""
    driver.train(pool, "loose", "reproducibility.mode=statistical", until=2)
    cases = [
        (
            driver.run("loose").path,
            ReplayRequest(),
            {},
            RefusedError,
            "reproducibility.mode must be bitwise, got statistical",
        ),
        (made.path, ReplayRequest(from_step=16), {}, InputError, "--from must be less than 16, got 16"),
        (made.path, ReplayRequest(), {"D": 9}, InputError, "D must be from 1 to V = 8"),
        (
            made.path,
            ReplayRequest(),
            {"data": tmp_path / "none"},
            InputError,
            "cannot find the dataset of made",
        ),
        (made.ledger_file, ReplayRequest(), {}, InputError, "must be a run"),
    ]
    for path, request, options, kind, message in cases:
        with pytest.raises(kind, match=message):
            replay_run(path, request, executor_in(tmp_path, pool, **options))


def test_another_dataset_is_told_as_what_differs(copied, executor, tmp_path):
    """Other tokens give another data part: said, and the difference proves nothing against the run."""
    (tmp_path / "text.txt").write_text("other words, other tokens. " * 4000)
    prepare([tmp_path / "text.txt"], tmp_path / "other", "byte", val_fraction=0.1)
    replay = replay_run(copied.path, ReplayRequest(), replace(executor, data=tmp_path / "other"))
    finding = replay.verdict.finding

    assert (finding.quantity, replay.verdict.fingerprints.parts) == ("data", ("data",))
    assert "this proves nothing against the run" in finding.diagnosis


def test_a_checkpoint_alone_is_held_against_its_own_run(copied, monkeypatch, capsys):
    """`llmrun verify RUN/checkpoints/step-…`, with `ledger.bin` of the run around it."""
    assert steps_in(copied.checkpoints) == [5, 10, 15, 16]
    assert command(["verify", str(copied.checkpoints / "step-00000010"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["equal"], document["steps_compared"]) == (True, 10)

    rewrite(copied, 10, weights_digest=7)
    assert command(["verify", str(copied.checkpoints / "step-00000010"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["first_step"], document["quantity"]) == (10, "weights")
