"""An earlier run of the same fingerprint that can be compared with, or none."""

import pytest

from llmrun.errors import InputError, RefusedError
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.run.record import read_record
from llmrun.storage.ledger.record import RECORD_BYTES


def flip(path):
    """Flip one bit in the last record."""
    content = bytearray(path.read_bytes())
    content[path.stat().st_size // 16 * 16 - RECORD_BYTES + 20] ^= 1
    path.write_bytes(content)


DAMAGES = [
    pytest.param(lambda ledger: ledger.unlink(), id="missing"),
    pytest.param(lambda ledger: ledger.write_bytes(b""), id="empty"),
    pytest.param(lambda ledger: ledger.write_bytes(b"llmrun-ledger/9\n" + b" " * 5000), id="another version"),
    pytest.param(lambda ledger: ledger.write_bytes(ledger.read_bytes()[:4096]), id="no record"),
    pytest.param(flip, id="a flipped bit"),
    pytest.param(lambda ledger: (ledger.unlink(), ledger.mkdir()), id="a directory"),
]


def reference_of_a_new_run(project):
    """What the workers of a further run would be told."""
    prepared = project.prepare(identity="new")
    prepared.lock.release()
    return prepared.worker_spec.reference_ledger


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_a_damaged_ledger_is_skipped(project, damage):
    """The run that went less far is taken instead; what lies in another run's directory fails no run."""
    project.train(identity="short", until=10)
    project.train(identity="long")
    damage(project.path / "runs" / "long" / "ledger.bin")

    assert reference_of_a_new_run(project) == str(project.path / "runs" / "short" / "ledger.bin")


def test_the_one_that_went_furthest_is_taken(project):
    """Without damage it is the long one."""
    project.train(identity="short", until=10)
    project.train(identity="long")

    assert reference_of_a_new_run(project) == str(project.path / "runs" / "long" / "ledger.bin")


def test_none_at_all(project):
    """With only damaged ones there is nothing to compare with."""
    project.train(identity="only")
    flip(project.path / "runs" / "only" / "ledger.bin")

    assert reference_of_a_new_run(project) is None


def spec_of_a_new_run(project, **wished):
    """The worker spec of a further run, which is not started."""
    prepared = project.prepare(identity="new", **wished)
    prepared.lock.release()
    return prepared.worker_spec


@pytest.mark.parametrize("name", ["short", "runs/short"])
def test_the_named_one_is_taken(project, name):
    """By name or by path, also where another one went further; the user is told."""
    project.train(identity="short", until=10)
    project.train(identity="long")
    project.said.clear()
    worker_spec = spec_of_a_new_run(project, overrides=[f"reproducibility.compare_with={name}"])

    assert worker_spec.reference_ledger == str(project.path / "runs" / "short" / "ledger.bin")
    assert "short has the same fingerprint: every step will be compared with it" in project.said


def test_on_difference_stop_is_announced(project):
    """Before the first step."""
    project.train(identity="first")
    project.said.clear()
    spec_of_a_new_run(project, overrides=["reproducibility.on_difference=stop"])

    assert any("and the first difference stops this run" in line for line in project.said)


def left_behind(project):
    """Directories below `runs/`, drafts included."""
    return sorted(path.name for path in (project.path / "runs").iterdir())


def test_another_fingerprint_is_refused(project):
    """Exit 3 with the fields that differ and a way out; nothing is left behind."""
    project.train(identity="first", overrides=["seed=7"])
    with pytest.raises(RefusedError) as caught:
        spec_of_a_new_run(project, overrides=["reproducibility.compare_with=first"])

    assert caught.value.message == "first has another fingerprint than this run: their bits need not be equal"
    assert caught.value.caused_by == ("config: seed: 7 -> 42",)
    assert "`--set reproducibility.compare_with=auto`" in caught.value.hints[-1]
    assert left_behind(project) == ["first"]


def test_a_run_that_is_not_there_is_an_input_error(project):
    """Exit 2 with the nearest name."""
    project.train(identity="first")
    with pytest.raises(InputError, match="there is no run frist") as caught:
        spec_of_a_new_run(project, overrides=["reproducibility.compare_with=frist"])

    assert caught.value.hints == ("did you mean first",)


def test_a_named_run_with_a_damaged_ledger_is_refused(project):
    """No other run is taken in place of a named one."""
    project.train(identity="first")
    project.train(identity="second")
    flip(project.path / "runs" / "first" / "ledger.bin")
    with pytest.raises(RefusedError) as caught:
        spec_of_a_new_run(project, overrides=["reproducibility.compare_with=first"])
    assert str(caught.value.where) == str(project.path / "runs" / "first" / "ledger.bin")


def test_a_run_under_way_or_changed_on_the_way_is_refused(project, changed):
    """It must have ended, and its history must be of one fingerprint."""
    project.train(identity="first")
    path = project.path / "runs" / "first" / "run.json"
    record = read_record(path)
    last = record.segments[-1]
    preimages = {"code": {"llmrun/core/step.py": "cc" * 32}}
    fingerprint = Fingerprint({**record.fingerprint["preimages"], **preimages})
    facts = {"fingerprint": fingerprint.digest, "parts": fingerprint.parts, "preimages": preimages}
    other = changed(last, segment=2, **facts)
    for segments, message in (
        ([changed(last, why=None, to_step=None)], "not ended"),
        ([changed(last, to_step=0)], "no steps"),
        ([last, other], "not all of its segments"),
    ):
        changed(record, segments=segments).write(path)
        with pytest.raises(RefusedError, match=message):
            spec_of_a_new_run(project, overrides=["reproducibility.compare_with=first"])


def interrupted_beside(project, **of_the_other):
    """A run `other`, and the run `demo` that was killed after step 13."""
    project.train(identity="other", **of_the_other)
    project.backend.dies_after = 13
    project.train()
    project.backend.dies_after = None


def test_a_resumed_run_has_its_named_reference(project):
    """Named on resume, by its name."""
    interrupted_beside(project)
    prepared = project.prepare_resume(overrides=["reproducibility.compare_with=other"])
    prepared.lock.release()

    assert prepared.worker_spec.reference_ledger == str(project.path / "runs" / "other" / "ledger.bin")


def test_a_relative_path_starts_where_the_run_was_made(project, monkeypatch):
    """As `data.path` does: a resume from another directory finds the same run."""
    interrupted_beside(project)
    (project.path / "elsewhere").mkdir()
    (project.path / "elsewhere" / "data").symlink_to(project.path / "data")
    monkeypatch.chdir(project.path / "elsewhere")
    prepared = project.prepare_resume(overrides=["reproducibility.compare_with=runs/other"])
    prepared.lock.release()

    assert prepared.worker_spec.reference_ledger == str(project.path / "runs" / "other" / "ledger.bin")


def test_a_run_cannot_be_its_own_reference(interrupted):
    """Refused before any file is touched."""
    before = interrupted.files()
    with pytest.raises(InputError, match="another run"):
        interrupted.prepare_resume(overrides=["reproducibility.compare_with=demo"])

    assert interrupted.files() == before


def test_another_fingerprint_is_refused_on_resume_too(project):
    """Exit 3, and not a file of the run is touched."""
    interrupted_beside(project, overrides=["seed=7"])

    refusal = project.refusal(overrides=["reproducibility.compare_with=other"])
    assert refusal.message.startswith("other has another fingerprint")


def test_a_run_that_changed_on_the_way_is_compared_with_nothing(project):
    """Its steps before the change need not be those of a run that never changed; the user is told."""
    interrupted_beside(project, overrides=["optimizer.lr=5e-4"])
    project.resume(overrides=["optimizer.lr=5e-4", "reproducibility.compare_with=other"], allow=["config"])

    assert project.worker_spec(2).reference_ledger is None
    assert any(line.startswith("nothing is compared with other") for line in project.said)
