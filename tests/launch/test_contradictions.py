"""What is stated twice is compared before a resume believes it: checkpoint, ledger, run.json, final state."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from llmrun.cli.running import closing_lines
from llmrun.data import check as data_check
from llmrun.errors import RefusedError
from llmrun.launch.prepared_segment import NothingToDo
from llmrun.storage.checkpoint.reader import open_checkpoint
from llmrun.storage.ledger.reader import LedgerReader


def llmrun(project, *arguments):
    """The real command line, in the project's directory."""
    command = [sys.executable, "-m", "llmrun", *arguments]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False, timeout=120)


def sha256_of(path):
    """In hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(checkpoint):
    """Make SHA256SUMS, and the manifest's own list, agree with the files again."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        entry.update(bytes=(checkpoint / name).stat().st_size, sha256=sha256_of(checkpoint / name))
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    names = sorted([*manifest["files"], "manifest.json"])
    lines = [f"{sha256_of(checkpoint / name)}  {name}\n" for name in names]
    (checkpoint / "SHA256SUMS").write_text("".join(lines))


def edit_json(path, change):
    """Change a JSON file in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def other_state(checkpoint, kind="parameter"):
    """Another state with books that agree: weights, digest, manifest and SHA256SUMS all changed alike."""
    names = {"parameter": "model", "optimizer/exp_avg": "optimizer"}
    file = checkpoint / f"{names[kind]}-00001-of-00001.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)

    def change(manifest):
        entry = next(entry for entry in manifest["tensors"].values() if entry["kind"] == kind)
        entry["digest"] = f"{int(entry['digest'], 16) + 1:016x}"

    edit_json(checkpoint / "manifest.json", change)
    seal(checkpoint)
    open_checkpoint(checkpoint)


def other_tokens(checkpoint):
    """Another count of tokens seen."""
    edit_json(checkpoint / "manifest.json", lambda manifest: manifest.update(tokens=1))
    seal(checkpoint)


def moments(checkpoint):
    """Another optimizer state."""
    other_state(checkpoint, "optimizer/exp_avg")


@pytest.mark.parametrize(
    ("change", "names"), [(other_state, "weights"), (moments, "optimizer"), (other_tokens, "tokens")]
)
def test_a_checkpoint_that_the_ledger_contradicts_is_passed_over(interrupted, change, names):
    """Weights, manifest and SHA256SUMS agree with each other, and not with the record of that step."""
    checkpoint = interrupted.run.checkpoints / "step-00000010"
    change(checkpoint)
    checked = llmrun(interrupted, "checkpoints", "check", "demo", "--json")
    with pytest.raises(RefusedError) as caught:
        interrupted.prepare_resume(start="10")
    interrupted.resume(until=8)

    assert checked.returncode == 1
    (damage,) = json.loads(checked.stdout)["damages"]
    assert (damage["checkpoint"], damage["file"]) == ("step-00000010", "manifest.json")
    assert names in damage["message"]
    assert any(names in line and "ledger" in line for line in caught.value.caused_by)
    assert interrupted.record.last.from_step == 5
    assert any("step-00000010/manifest.json" in line and names in line for line in interrupted.said)


def test_a_checkpoint_that_the_ledger_contradicts_costs_no_sound_one(interrupted):
    """`checkpoints prune` deletes nothing while the newest is in doubt."""
    other_state(interrupted.run.checkpoints / "step-00000010")
    done = llmrun(interrupted, "checkpoints", "prune", "demo", "--keep-last", "1")

    assert done.returncode == 1
    assert (interrupted.run.checkpoints / "step-00000005").is_dir()


def test_an_optimizer_step_that_is_not_the_checkpoints_is_damage(interrupted):
    """trainer.json says it again, and AdamW's bias correction would go on from it."""
    checkpoint = interrupted.run.checkpoints / "step-00000010"
    whole = {
        "format": "llmrun-trainer/1",
        "step": 10,
        "optimizer": {"step": 10},
        "metrics": {"loss_smooth": {"decay": 0.9, "total": 1.0, "weight": 1.0}},
        **dict.fromkeys(("val_ppl", "best_val_ppl", "best_step", "best_saved_step")),
    }
    (checkpoint / "trainer.json").write_text(json.dumps(whole))
    seal(checkpoint)
    open_checkpoint(checkpoint)
    (checkpoint / "trainer.json").write_text(json.dumps({**whole, "optimizer": {"step": 9}}))
    seal(checkpoint)
    interrupted.resume(until=8)

    assert interrupted.record.last.from_step == 5
    assert any("step-00000010/trainer.json" in line for line in interrupted.said)


def test_parts_of_a_fingerprint_that_run_json_contradicts_are_refused(interrupted):
    """The manifest and run.json both state them."""
    checkpoint = interrupted.run.checkpoints / "step-00000010"
    edit_json(checkpoint / "manifest.json", lambda manifest: manifest["parts"].update(data="0" * 64))
    seal(checkpoint)

    assert "step-00000010" in interrupted.refusal().message


def test_a_preimage_edited_with_its_digest_left_is_refused_everywhere(interrupted):
    """Resume refuses (3); `runs show` and `verify` call it damage (1); nothing is started or changed."""
    edit_json(
        interrupted.run.record_file,
        lambda record: record["fingerprint"]["preimages"]["config"]["optimizer"].update(lr=2e-3),
    )
    before = interrupted.files()
    codes = {
        command: llmrun(interrupted, *command.split()).returncode
        for command in ("resume demo", "train demo.yaml --run demo", "runs show demo", "verify demo demo")
    }

    assert codes == {
        "resume demo": 3,
        "train demo.yaml --run demo": 3,
        "runs show demo": 1,
        "verify demo demo": 1,
    }
    assert interrupted.files() == before
    assert "part config" in interrupted.refusal().message


@pytest.mark.parametrize("command", ["resume", "train --run"])
def test_a_finished_run_whose_final_state_is_damaged_is_completed_again(project, command):
    """It does not say "finished": the damage is named, and the steps are computed and audited again."""
    project.train()
    chain = LedgerReader(project.run.ledger_file).chain
    (project.run.checkpoints / "step-00000020" / "model-00001-of-00001.safetensors").write_bytes(b"")
    ended = project.resume() if command == "resume" else project.train()

    assert not isinstance(ended, NothingToDo)
    assert project.record.last.from_step == 15
    assert (project.record.status, project.record.saved_step) == ("finished", 20)
    assert LedgerReader(project.run.ledger_file).chain == chain
    assert any("step-00000020/model-00001-of-00001.safetensors" in line for line in project.said)
    assert any("steps 16 to 20" in line for line in project.said)
    assert project.worker_spec(2).audit_tails == ["ledger-tail-002.bin"]


@pytest.mark.parametrize("until", [None, 15])
def test_a_run_whose_checkpoints_are_all_gone_is_not_finished(project, until):
    """Nor does it start anew by itself: from step 0 only if asked."""
    project.train(until=until)
    shutil.rmtree(project.run.checkpoints)
    project.run.checkpoints.mkdir()
    error = project.refusal()
    with pytest.raises(RefusedError):
        project.prepare()

    assert f"step {until or 20}" in error.message
    assert any("--from 0" in hint for hint in error.hints)
    project.resume(start="0", until=5)
    assert project.record.last.from_step == 0


@pytest.fixture
def own_data(project, dataset_of_session):
    """The project's dataset, a copy that may be changed."""
    (project.path / "data").unlink()
    shutil.copytree(dataset_of_session, project.path / "data")
    return project.path / "data"


def foreign_stream(data, split):
    """Name other data for a split; every shard keeps its right sha256."""
    edit_json(
        data / "dataset.json", lambda document: document["splits"][split].update(stream_digest="0" * 64)
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_foreign_stream_digest_with_sound_shards_starts_nothing(project, own_data, split):
    """The fingerprint is built on it: refused before the run has a name, and by a resume, which stays as it was."""
    content = (own_data / "dataset.json").read_bytes()
    foreign_stream(own_data, split)
    with pytest.raises(RefusedError) as caught:
        project.prepare()
    assert not project.run.path.exists()
    (own_data / "dataset.json").write_bytes(content)
    project.train(until=5)
    foreign_stream(own_data, split)
    error = project.refusal()

    for refused in (caught.value, error):
        assert f"the stream digest of {split}" in refused.message
        assert str(refused.where).endswith("data/dataset.json")


def test_a_damaged_shard_is_left_to_the_process_that_opens_it(project, own_data):
    """The stream digest is right then; whoever opens the shard names it (exit 4)."""
    file = own_data / "train-00000.bin"
    raw = bytearray(file.read_bytes())
    raw[0] ^= 1
    file.write_bytes(raw)

    assert project.train(until=5).end.why == "reached"


def test_a_dataset_too_large_to_be_read_at_a_start_is_named(project, own_data, monkeypatch):
    """What is not compared is said, with the command that compares it."""
    monkeypatch.setattr(data_check, "START_TOKENS", 1000)
    foreign_stream(own_data, "train")
    project.train(until=5)

    assert sum(f"`llmrun data check {own_data}`" in line for line in project.said) == 1
    assert llmrun(project, "data", "check", "data").returncode == 1


def test_unchecked_shards_stand_on_the_closing_screen(project):
    """`data.verify: never`: neither shards nor streams are read, and the screen says so."""
    closing = {}
    for verify in ("always", "never"):
        prepared = project.prepare(identity=verify, overrides=[f"data.verify={verify}"])
        closing[verify] = closing_lines(prepared, project.go(prepared))

    assert [any("data.verify: never" in line for line in lines) for lines in closing.values()] == [
        False,
        True,
    ]
    assert not any("stream digest" in line for line in project.said)
