"""A worker compares what it loaded with its orders, and refuses before the first weight."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import llmrun
from llmrun.data.prepare import prepare
from llmrun.errors import RefusedError, RunFailedError
from llmrun.provenance.fingerprint import digest_of
from llmrun.run.worker_spec import Outcome
from warm.bits import chain_of
from warm.pool import PoolBackend

ONE_RUN = (
    ("batch.D=1", "data.num_workers=0"),
    ("batch.D=2", "data.num_workers=2"),
    ("batch.D=2", "strategy=shard", "data.num_workers=0"),
)


@pytest.mark.slow
def test_one_fingerprint_whatever_a_worker_has_to_load(driver, pool):
    """D = 1 and 2, loader workers, sharded weights, a resume: accepted by every worker, equal digests and chains."""
    for number, overrides in enumerate(ONE_RUN):
        driver.train(pool, f"run-{number}", *overrides, until=2)
    driver.resume(pool, "run-0", D=2, until=4)
    driver.resume(pool, "run-1", D=1, until=4)
    segments = [
        segment
        for number in range(len(ONE_RUN))
        for segment in json.loads(driver.run(f"run-{number}").record_file.read_text())["segments"]
    ]

    assert [segment["why"] for segment in segments] == ["reached"] * 5
    assert len({segment["fingerprint"] for segment in segments}) == 1
    assert chain_of(driver.run("run-0")) == chain_of(driver.run("run-1"))


@pytest.mark.parametrize(
    ("mutation", "named"),
    [
        ("import_file", "code: stranger.py"),
        ("other_threads_in_the_canary", "environment: canary.norms"),
    ],
)
def test_what_only_the_worker_has_is_refused(driver, server, tmp_path, mutation, named):
    """A module that the probe did not see, results that it did not get: exit 3, named, nothing trained."""
    (tmp_path / "stranger.py").write_text("")
    arguments = {"path": str(tmp_path / "stranger.py")} if mutation == "import_file" else {}
    ended = driver.train(PoolBackend(server, mutation, **arguments), "one", until=1)
    run = driver.run("one")
    error = ended.error(run)

    assert isinstance(error, RefusedError)
    assert any(line.startswith(named) for line in error.caused_by)
    assert ended.step == 0
    assert not run.ledger_file.exists()
    assert list(run.checkpoints.iterdir()) == []


class EditedSpec(PoolBackend):
    """Workers whose spec was edited after the launcher wrote it."""

    def __init__(self, server, edit):
        super().__init__(server)
        self.edit = edit

    def start(self, job):
        """See `ProcessBackend.start`."""
        file = job.run.worker_spec_file(job.segment)
        document = json.loads(file.read_text())
        self.edit(document)
        file.write_text(json.dumps(document))
        return super().start(job)


def _other_seed(document):
    document["config"]["seed"] = 43


def _other_seed_and_preimage(document):
    _other_seed(document)
    document["preimages"]["config"]["seed"] = 43


def _other_seed_and_digest(document):
    _other_seed_and_preimage(document)
    document["parts"]["config"] = digest_of(document["preimages"]["config"])


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_other_seed, "config: seed: 42 -> 43"),
        (_other_seed_and_preimage, "config: the spec states"),
        (_other_seed_and_digest, "the digest of the fingerprint"),
    ],
)
def test_an_edited_worker_spec_is_refused(driver, server, edit, named):
    """The seed is stated four times in it; whichever is changed alone, nothing is trained under the old fingerprint."""
    ended = driver.train(EditedSpec(server, edit), "one", until=1)
    error = ended.error(driver.run("one"))

    assert isinstance(error, RefusedError)
    assert any(line.startswith(named) for line in error.caused_by)
    assert not driver.run("one").ledger_file.exists()


def test_a_dataset_that_is_replaced_before_workers_start_is_refused(driver, server, tmp_path):
    """Its manifest is not the one of the fingerprint."""
    (tmp_path / "other.txt").write_text("other words, other tokens. " * 4000)
    prepare([tmp_path / "other.txt"], tmp_path / "other", "byte", val_fraction=0.1)
    ended = driver.train(
        EditedSpec(server, lambda document: document.update(data_path=str(tmp_path / "other"))),
        "one",
        until=1,
    )

    assert any(line.startswith("data: ") for line in ended.error(driver.run("one")).caused_by)


def test_code_imported_later_is_not_executed(driver, server, tmp_path):
    """A file that is imported in step 2 and that the fingerprint does not cover: the run fails and names it."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    backend = PoolBackend(server, "import_file", path=str(tmp_path / "stranger.py"), step=2)
    ended = driver.train(backend, "one", until=4)
    error = ended.error(driver.run("one"))

    assert isinstance(error, RunFailedError)
    assert str(error.where) == str(tmp_path / "stranger.py")
    assert not (tmp_path / "executed").exists()


def test_a_float_mode_that_changes_meanwhile_is_found_at_the_end(driver, server):
    """Denormals flushed from step 2 on: the segment does not end as if nothing had happened."""
    ended = driver.train(PoolBackend(server, "flush_denormals", step=2), "one", until=4)
    error = ended.error(driver.run("one"))

    assert isinstance(error, RunFailedError)
    assert any(line.startswith("environment: canary.float_mode") for line in error.caused_by)


@pytest.fixture
def project(driver, tmp_path):
    """A working directory full of traps, and a copy of llmrun to run and to edit."""
    for name in ("profile.py", "random.py", "llmrun.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})\n")
    shutil.copytree(
        Path(llmrun.__file__).parent,
        tmp_path / "copy" / "llmrun",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return driver


def command(project, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m llmrun …` of the copy, in the working directory."""
    place = project.directory
    start = (
        f"import sys; sys.path.insert(0, {str(place / 'copy')!r}); from llmrun.cli.app import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", start, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def edited_start(project, name: str, *settings: str) -> subprocess.CompletedProcess:
    """A real start in which a source of `llmrun/core/` is edited when the worker spec is written: after the probe."""
    worker_spec = project.run("one").worker_spec_file(1)

    def edit() -> None:
        while not worker_spec.exists():
            time.sleep(0.005)
        with (project.directory / "copy" / "llmrun" / "core" / name).open("a") as source:
            source.write("\nraise SystemExit('edited')\n")

    editor = threading.Thread(target=edit, daemon=True)
    editor.start()
    runs = f"runs_dir={project.directory / 'runs'}"
    done = command(project, "train", "config.yaml", "--run", "one", f"--set={runs}", "--json", *settings)
    editor.join(timeout=10)
    return done


def test_a_source_edited_between_probe_and_worker_is_not_executed(project, tmp_path):
    """Workers have the code that was probed; the traps of the working directory are not imported."""
    done = edited_start(project, "optimizer.py", "--until=1")
    run = project.run("one")

    assert done.returncode == 0, done.stderr
    assert Outcome.read(run.outcome_file(1, 0)).step == 1
    assert not (tmp_path / "executed").exists()


def test_an_edited_source_that_a_worker_imports_late_is_refused(project, tmp_path):
    """What only sharding needs is imported by the worker: the edit is named, exit 3, nothing trained."""
    done = edited_start(project, "parallel/shard.py", "--until=1", "--set=batch.D=2", "--set=strategy=shard")
    run = project.run("one")

    assert done.returncode == 3, done.stderr
    assert "llmrun/core/parallel/shard.py" in done.stderr
    assert Outcome.read(run.outcome_file(1, 0)).step == 0
    assert not run.ledger_file.exists()
    assert not (tmp_path / "executed").exists()
