"""`llmrun checkpoints list | check | prune`, as a user calls them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llmrun.cli.checkpoints import check, list_, prune
from llmrun.errors import DamagedError, InputError, RefusedError
from llmrun.provenance.fingerprint import PARTS, Fingerprint
from llmrun.run.lock import RunLock
from llmrun.run.record import RunRecord
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.durable import Disk

FINGERPRINT = Fingerprint({part: {} for part in PARTS}).as_json()
GIT = {"commit": None, "root_commits": [], "diff_sha256": "0" * 64, "dirty": {}}


def write_record(directory, keep_every_steps=None):
    """The run.json of a run that keeps every n-th step."""
    config = {"checkpoint": {"keep_every_steps": keep_every_steps}}
    record = RunRecord("demo", "2026-11-24T09:00:00+00:00", "created", 24, config, FINGERPRINT, GIT, "/srv")
    record.write(directory / "run.json")


@pytest.fixture
def run(states, tmp_path):
    """A run's directory with three checkpoints, the best of them at step 8."""
    directory = tmp_path / "demo"
    directory.mkdir()
    write_record(directory)
    (directory / "checkpoints").mkdir()
    for step in (8, 16, 24):
        trainer = {"step": step, "val_ppl": 100 / step, "best_saved_step": 8}
        state = states.small(step)
        pieces = states.pieces(state, states.even_cuts(state, 1), 0)
        from llmrun.storage.checkpoint.writer import commit, save_rank

        saved = states.snapshot(step, pieces, trainer=trainer)
        save_rank(directory / "checkpoints", saved, 0, 1, states.quick)
        commit(directory / "checkpoints", saved, 1, 1, states.quick)
    return directory


def llmrun(*arguments: object):
    """Call `llmrun checkpoints` with these arguments; errors of ours are raised to the test."""
    app = typer.Typer()
    app.command("list")(list_)
    app.command("check")(check)
    app.command("prune")(prune)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def damage(run, step: int, name: str) -> None:
    file = run / "checkpoints" / f"step-{step:08d}" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_list_shows_each_checkpoint(run):
    """One line for each: step, tokens, size, ranks, val_ppl, state."""
    lines = llmrun("list", run).stdout.splitlines()

    assert lines[0].split() == ["step", "tokens", "size", "ranks", "val_ppl", "state"]
    assert [line.split()[0] for line in lines[1:]] == ["8", "16", "24"]
    assert lines[2].split()[1:] == ["16,384", lines[2].split()[2], lines[2].split()[3], "1", "6.25", "whole"]


def test_list_as_json(run):
    """The keys of the JSON document are these."""
    rows = json.loads(llmrun("list", run, "--json").stdout)["checkpoints"]

    assert [row["step"] for row in rows] == [8, 16, 24]
    assert set(rows[0]) == {"step", "path", "bytes", "tokens", "val_ppl", "ranks", "whole", "damages"}
    assert rows[0] | {"path": "", "bytes": 0} == {
        "step": 8,
        "path": "",
        "bytes": 0,
        "tokens": 8192,
        "val_ppl": 12.5,
        "ranks": 1,
        "whole": True,
        "damages": [],
    }


def test_list_names_a_damaged_file(run):
    """A damaged checkpoint is listed with the file and `-` for what is unknown."""
    damage(run, 16, "trainer.json")
    line = llmrun("list", run).stdout.splitlines()[2]

    assert line.split()[:2] == ["16", "-"]
    assert line.endswith("damaged: trainer.json has another sha256 than SHA256SUMS states")


def test_list_does_not_follow_a_link(run, tmp_path):
    """A link in a checkpoint's place has no size of its own, and what it points at is not counted."""
    total = llmrun("list", run).stderr.splitlines()[0].removeprefix("3 ")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(bytes(10**6))
    (run / "checkpoints" / "step-00000200").symlink_to(tmp_path / "outside")
    result = llmrun("list", run)
    rows = json.loads(llmrun("list", run, "--json").stdout)["checkpoints"]

    assert result.stdout.splitlines()[-1].split()[:5] == ["200", "-", "-", "-", "-"]
    assert result.stdout.endswith("is a symbolic link; checkpoints are directories of their own\n")
    assert result.stderr.splitlines()[0].removeprefix("4 ") == total
    assert [row["bytes"] is None for row in rows] == [False, False, False, True]


def test_list_of_a_run_without_checkpoints(tmp_path):
    """A run that saved nothing yet has an empty list."""
    (tmp_path / "run.json").write_text("{}")

    assert json.loads(llmrun("list", tmp_path, "--json").stdout) == {"checkpoints": []}


def test_check_of_sound_checkpoints(run):
    """Every checkpoint is said to be sound, exit 0."""
    result = llmrun("check", run)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"step-{step:08d}  sound" for step in (8, 16, 24)]


def test_check_names_the_damaged_file_and_exits_with_1(run):
    """A flipped bit is found in whichever file it is."""
    damage(run, 16, "optimizer-00001-of-00001.safetensors")
    result = llmrun("check", run)

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "step-00000008  sound",
        "step-00000016  damaged",
        "  step-00000016/optimizer-00001-of-00001.safetensors has another sha256 than SHA256SUMS states",
        "step-00000024  sound",
    ]


def test_check_of_one_step(run):
    """With STEP only that checkpoint is read."""
    damage(run, 16, "rng.safetensors")

    assert llmrun("check", run, 24).stdout == "step-00000024  sound\n"
    assert llmrun("check", run, 16).exit_code == 1


def test_check_takes_every_way_to_a_checkpoint(run):
    """A run's directory, its checkpoints/ and one checkpoint are all understood."""
    assert len(llmrun("check", run / "checkpoints").stdout.splitlines()) == 3
    assert llmrun("check", run / "checkpoints" / "step-00000016").stdout == "step-00000016  sound\n"


def test_check_as_json(run):
    """Damage is listed by checkpoint and file, exit 1."""
    damage(run, 8, "model-00001-of-00001.safetensors")
    result = llmrun("check", run, "--json")
    document = json.loads(result.stdout)

    assert result.exit_code == 1
    assert [row["sound"] for row in document["checkpoints"]] == [False, True, True]
    assert document["damages"] == [
        {
            "checkpoint": "step-00000008",
            "file": "model-00001-of-00001.safetensors",
            "message": "has another sha256 than SHA256SUMS states",
            "kind": "checksum",
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "{run}", 17), "has no checkpoint of step 17"),
        (("check", "{run}", "--", -1), "has no checkpoint of step -1"),
        (("list", "{run}/missing"), "there is no run"),
        (("list", "{run}/step-00000008"), "there is no run"),
        (("list", "{run}/run.json"), "there is no directory"),
        (("list", "{run}/.."), "is neither a run nor a checkpoint"),
        (("prune", "{run}/..", "--keep-last", 1), "is not a run's directory"),
    ],
)
def test_wrong_input_is_refused(run, arguments, message):
    """What is no run, no checkpoint or no step of it is said."""
    with pytest.raises(InputError, match=message):
        llmrun(*[str(argument).replace("{run}", str(run)) for argument in arguments])


def test_check_without_any_checkpoint_is_wrong_input(tmp_path):
    """There is nothing to check in a run that saved nothing: that is not `sound`."""
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="has no checkpoints"):
        llmrun("check", tmp_path)


def test_prune_keeps_the_newest_and_the_best(run):
    """`--keep-last 1` deletes what is neither the newest nor the best."""
    assert llmrun("prune", run, "--keep-last", 1, "--dry-run").stdout.splitlines() == [
        "would delete step 16",
        "kept 8, 24",
    ]
    assert steps_in(run / "checkpoints") == [8, 16, 24]

    document = json.loads(llmrun("prune", run, "--keep-last", 1, "--json").stdout)

    assert document == {"deleted": [16], "kept": [8, 24], "left": [], "dry_run": False}
    assert steps_in(run / "checkpoints") == [8, 24]


@pytest.mark.parametrize("name", ["optimizer-00001-of-00001.safetensors", "manifest.json"])
def test_prune_refuses_while_the_newest_is_damaged(run, name):
    """Nothing is deleted where the newest checkpoint is not sound; the file is named, exit 1."""
    damage(run, 24, name)
    with pytest.raises(DamagedError, match=f"step-00000024/{name}"):
        llmrun("prune", run, "--keep-last", 1)

    assert steps_in(run / "checkpoints") == [8, 16, 24]


def test_a_runs_name_is_understood_everywhere(run):
    """A name below --runs-dir does as well as a path; an unknown one gets the nearest."""
    place = ("--runs-dir", run.parent)

    assert len(llmrun("list", "demo", *place).stdout.splitlines()) == 4
    assert llmrun("check", "demo", 8, *place).stdout == "step-00000008  sound\n"
    assert llmrun("prune", "demo", "--keep-last", 1, "--dry-run", *place).stdout.endswith("kept 8, 24\n")
    with pytest.raises(InputError, match="there is no run dem") as caught:
        llmrun("list", "dem", *place)
    assert caught.value.hints == ("did you mean demo",)


def test_a_directory_that_is_no_run_does_not_hide_the_run_of_its_name(run, tmp_path, monkeypatch):
    """`data/demo` may stand where the user stands."""
    (tmp_path / "work" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")

    assert len(llmrun("check", "demo", "--runs-dir", tmp_path).stdout.splitlines()) == 3


def test_prune_keeps_what_the_runs_config_keeps(run):
    """Every 16th step is kept by checkpoint.keep_every_steps, whatever --keep-last says."""
    write_record(run, keep_every_steps=16)
    document = json.loads(llmrun("prune", run, "--keep-last", 1, "--json").stdout)

    assert document["deleted"] == []
    assert steps_in(run / "checkpoints") == [8, 16, 24]


def test_prune_refuses_a_run_that_is_under_way(run):
    """Its owner is named, exit 3, and nothing is deleted; afterwards the lock is free."""
    with RunLock.acquire(run / "run.lock") as lock, pytest.raises(RefusedError) as caught:
        llmrun("prune", run, "--keep-last", 1)

    assert caught.value.message == f"demo is being trained by {lock.owner.describe()}"
    assert steps_in(run / "checkpoints") == [8, 16, 24]
    assert llmrun("prune", run, "--keep-last", 1).exit_code == 0
    assert (run / "run.lock").read_bytes() == b""


def test_prune_of_a_run_that_cannot_be_read_deletes_nothing(run):
    """Without run.json nobody knows what the run keeps."""
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match="run record format"):
        llmrun("prune", run, "--keep-last", 1)

    assert steps_in(run / "checkpoints") == [8, 16, 24]


def test_prune_tells_what_could_not_be_removed(run, monkeypatch):
    """A file in use on a network disk keeps its hidden directory: named on stderr and in the JSON, exit 0."""

    def busy(self, path):
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr(Disk, "remove_tree", busy)
    result = llmrun("prune", run, "--keep-last", 1, "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["left"] == [".tmp-delete-step-00000016"]
    assert "warning: checkpoints/.tmp-delete-step-00000016 could not be removed yet" in result.stderr
    assert steps_in(run / "checkpoints") == [8, 24]


def test_list_marks_the_best_and_names_what_else_takes_space(run):
    """The best as the newest knows it; hidden and abandoned directories with their sizes, on stderr."""
    (run / "checkpoints" / ".tmp-step-00000032-segment-002").mkdir()
    (run / "checkpoints" / ".tmp-step-00000032-segment-002" / "x").write_bytes(bytes(2000))
    (run / "checkpoints" / "abandoned-002").mkdir()
    (run / "checkpoints" / "step-00000024").rename(run / "checkpoints" / "abandoned-002" / "step-00000024")
    result = llmrun("list", run)
    told = result.stderr.splitlines()

    assert [line.split()[6:] for line in result.stdout.splitlines()[1:]] == [["whole,", "best"], ["whole"]]
    assert told[0].startswith("2 checkpoints, ")
    assert told[1].startswith(".tmp-step-00000032-segment-002: 2.00 kB, unfinished")
    assert told[2].startswith("abandoned-002: ")
    assert len(llmrun("list", run / "checkpoints" / "step-00000008").stderr.splitlines()) == 1


def test_check_tells_each_as_it_is_read(run, monkeypatch):
    """What was found so far is on the screen although a later checkpoint stops the command."""
    from llmrun.storage.checkpoint import listing

    damages_of = listing.damages_of
    monkeypatch.setattr(
        listing,
        "damages_of",
        lambda path, *rest: damages_of(path, *rest) if "24" not in path.name else 1 / 0,
    )
    app = typer.Typer()
    app.command("check")(check)
    result = CliRunner().invoke(app, [str(run)])

    assert isinstance(result.exception, ZeroDivisionError)
    assert result.stdout.splitlines() == ["step-00000008  sound", "step-00000016  sound"]
