"""A project with a real dataset, and workers that keep real books without training anything."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from llmrun.config.load import load_config
from llmrun.config.resolve import resolved_of
from llmrun.config.schema import Config
from llmrun.core.combined_digest import TensorDigest, combine_digests
from llmrun.core.model.parameters import parameter_shapes
from llmrun.data.prepare import prepare
from llmrun.errors import RefusedError
from llmrun.launch.new_run import prepare_fresh
from llmrun.launch.options import LaunchContext, launch_options
from llmrun.launch.prepared_segment import NothingToDo
from llmrun.launch.resume import ResumeCommand, prepare_resume
from llmrun.launch.segment import run_segment
from llmrun.launch.torchrun import Probe
from llmrun.run.directory import RunDirectory
from llmrun.run.record import read_record
from llmrun.run.signals import LauncherStopRequest
from llmrun.run.worker_spec import Outcome, WorkerSpec
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.checkpoint.parts import StateSnapshot, TensorPiece
from llmrun.storage.checkpoint.writer import commit, save_rank
from llmrun.storage.ledger.record import LedgerRecord, quantities_due
from llmrun.storage.ledger.writer import LedgerWriter
from warm.packages import QuickQuestion

CONFIG = """
name: demo
T_tokens: 20Ki
model: {n_layers: 1, d_model: 32, n_heads: 2}
batch: {GB_tok: 1Ki, μ_tok: 256, L_ctx: 64, D: 2, V: 4}
optimizer: {lr: 1e-3}
data: {path: data}
checkpoint: {every_steps: 5}
hardware: {device: cpu}
"""
STEPS = 20


MOMENTS = ("exp_avg", "exp_avg_sq")


def moments_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """AdamW's state of all parameters."""
    return {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in MOMENTS}


def digest_of_all(shapes: dict[str, tuple[int, ...]], step: int) -> int:
    """What the ledger says of tensors that all have the digest `step`, as `_save` writes them."""
    return combine_digests({name: TensorDigest("F32", shape, step) for name, shape in shapes.items()})


def record_of(step: int, salt: int, shapes: dict[str, tuple[int, ...]]) -> LedgerRecord:
    """A ledger record that depends on nothing but its step, a salt and the model's shape."""
    values = {
        "tokens": step * 1024,
        "loss": 5.0 - step / 100 + salt,
        "grad_norm": 1.0,
        "learning_rate": 1e-3,
        "tokens_digest": step,
        "gradients_digest": step + salt,
        "weights_digest": digest_of_all(shapes, step + salt),
        "optimizer_digest": digest_of_all(moments_of(shapes), step + salt),
    }
    return LedgerRecord(step, **{name: values[name] for name in quantities_due(step) - {"step"}})


def shapes_of(worker_spec: WorkerSpec) -> dict[str, tuple[int, ...]]:
    """The parameters of the model that a segment trains."""
    config = Config.model_validate_json(json.dumps(worker_spec.config))
    return dict(parameter_shapes(resolved_of(config, worker_spec.D).shape))


class Bookkeeper:
    """A `ProcessBackend` whose workers write ledger, metrics and checkpoints as real ones do.

    environment, source_files: what the probe answers.
    dies_after: the step after which the workers are gone without an outcome; None lets them finish.
    best_at: the step that trainer.json names as the best saved one.
    """

    def __init__(self) -> None:
        self.environment = {"torch": "2.13.0", "variables": {"OMP_NUM_THREADS": "1"}}
        self.source_files = {"llmrun/core/step.py": "aa" * 32, "llmrun/cli/app.py": "bb" * 32}
        self.dies_after: int | None = None
        self.best_at: int | None = None
        self.salt = 0
        self.jobs = []

    def probe(self, device, environment, check):
        """The fixed answer."""
        check()
        return Probe(self.environment, {"nccl": None}, self.source_files)

    def start(self, job):
        """Do the whole segment at once."""
        self.jobs.append(job)
        worker_spec = WorkerSpec.read(job.run.worker_spec_file(job.segment))
        last = (
            worker_spec.until_step
            if self.dies_after is None
            else min(self.dies_after, worker_spec.until_step)
        )
        self._keep_books(job.run, worker_spec, last)
        if self.dies_after is None:
            steps = worker_spec.config["T_tokens"] // worker_spec.config["batch"]["GB_tok"]
            kind = "finished" if last == steps else "reached"
            for rank in range(job.D):
                Outcome(rank, kind, last).write(job.run.outcome_file(job.segment, rank))
        return Gone()

    def _keep_books(self, run: RunDirectory, worker_spec: WorkerSpec, last: int) -> None:
        if run.ledger_file.exists():
            ledger = LedgerWriter.resume(
                run.ledger_file, worker_spec.from_step if worker_spec.checkpoint else None, STEPS
            )
        else:
            ledger = LedgerWriter.create(run.ledger_file, "tests", STEPS)
        shapes = shapes_of(worker_spec)
        if ledger.next_step == 0:
            ledger.append(record_of(0, self.salt, shapes))
        for step in range(worker_spec.from_step + 1, last + 1):
            ledger.append(record_of(step, self.salt, shapes))
            with run.metrics_file.open("a") as file:
                file.write(json.dumps({"step": step, "tokens": step * 1024, "loss": 1.0}) + "\n")
            if step % 5 == 0 or step == worker_spec.until_step:
                ledger.sync()
                self._save(run, worker_spec, step, ledger.chain.hex())
        ledger.close()

    def _save(self, run: RunDirectory, worker_spec: WorkerSpec, step: int, chain: str) -> None:
        shapes = shapes_of(worker_spec)
        values = {name: np.full(math.prod(shape), step, np.float32) for name, shape in shapes.items()}
        pieces = [TensorPiece(name, "parameter", "F32", shapes[name], 0, values[name]) for name in shapes]
        moments = [
            TensorPiece(f"{name}.{moment}", f"optimizer/{moment}", "F32", shapes[name], 0, values[name])
            for name in shapes
            for moment in MOMENTS
        ]
        saved = StateSnapshot(
            step=step,
            attempt=f"segment-{worker_spec.segment:03d}",
            tokens=step * 1024,
            fingerprint=worker_spec.fingerprint,
            parts=worker_spec.parts,
            chain=chain,
            trainer={"best_saved_step": self.best_at},
            rng={"numpy": np.zeros(2, np.uint8)},
            model=pieces,
            optimizer=moments,
            digests=lambda pieces: [step + self.salt] * len(pieces),
        )
        save_rank(run.checkpoints, saved, 0, 1)
        commit(run.checkpoints, saved, 1, 5.0)


class Gone:
    """Workers that have ended."""

    def poll(self):
        """The exit code of all."""
        return 0

    def terminate(self):
        """Nothing is left to ask."""

    def kill(self):
        """Nothing is left to kill."""


class Watcher:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.steps, self.checkpoints, self.said = [], [], []

    def rows(self, rows):
        """New rows."""
        self.steps += [row["step"] for row in rows]

    def checkpoint(self, step):
        """A checkpoint."""
        self.checkpoints.append(step)

    def warn(self, message):
        """A remark while the run goes on."""

    def stopping(self, message):
        """A stop."""
        self.said.append(message)


class Project:
    """A working directory with a config and a dataset, driven as the command line drives it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backend = Bookkeeper()
        self.said: list[str] = []
        self.watcher = Watcher()
        (path / "demo.yaml").write_text(CONFIG)

    def options(self, overrides=(), allow=(), until=None, D=None, start=None):
        """What a command line asks."""
        return launch_options(overrides, allow, until, D, start)

    def prepare(self, identity="demo", stop=None, **wished):
        """`llmrun train demo.yaml --run demo`, up to the start of workers."""
        options = self.options(**wished)
        loaded = load_config(self.path / "demo.yaml", options.overrides)
        context = LaunchContext(self.backend, stop or LauncherStopRequest(), self.said.append)
        if identity is not None and self.run.is_run:
            command = ResumeCommand("llmrun train demo.yaml --run demo", loaded)
            return prepare_resume(self.run, options, command, context)
        return prepare_fresh(loaded, identity, options, context)

    def prepare_resume(self, **wished):
        """`llmrun resume demo`, up to the start of workers."""
        command = ResumeCommand("llmrun resume demo")
        context = LaunchContext(self.backend, LauncherStopRequest(), self.said.append)
        return prepare_resume(self.run, self.options(**wished), command, context)

    def go(self, prepared):
        """Run a prepared segment to its end."""
        if isinstance(prepared, NothingToDo):
            return prepared
        return run_segment(prepared, self.backend, LauncherStopRequest(), self.watcher)

    def refusal(self, **wished):
        """The refusal of `llmrun resume demo`, which must not have touched a file."""
        before = self.files()
        with pytest.raises(RefusedError) as caught:
            self.prepare_resume(**wished)
        assert self.files() == before
        assert caught.value.exit_code == 3
        return caught.value

    def train(self, **wished):
        """`llmrun train demo.yaml --run demo`."""
        return self.go(self.prepare(**wished))

    def resume(self, **wished):
        """`llmrun resume demo`."""
        return self.go(self.prepare_resume(**wished))

    @property
    def run(self) -> RunDirectory:
        """The run."""
        return RunDirectory(self.path / "runs" / "demo")

    @property
    def record(self):
        """What run.json says now."""
        return read_record(self.run.record_file)

    def worker_spec(self, segment: int) -> WorkerSpec:
        """What the workers of a segment were told."""
        return WorkerSpec.read(self.run.worker_spec_file(segment))

    def files(self) -> dict[str, bytes]:
        """Every file of the run but its lock, to see that nothing was touched."""
        return {
            str(path.relative_to(self.run.path)): path.read_bytes()
            for path in sorted(self.run.path.rglob("*"))
            if path.is_file() and path.name != "run.lock"
        }

    def edit(self, old: str, new: str) -> None:
        """Change the config file."""
        text = (self.path / "demo.yaml").read_text()
        assert old in text
        (self.path / "demo.yaml").write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def dataset_of_session(tmp_path_factory):
    """A byte dataset, made once."""
    place = tmp_path_factory.mktemp("dataset")
    (place / "text.txt").write_text("".join(f"line {i} of a small text\n" for i in range(4000)))
    prepare([place / "text.txt"], place / "data", "byte", val_fraction=0.1)
    return place / "data"


@pytest.fixture
def project(tmp_path, monkeypatch, dataset_of_session):
    """A project outside any repository, its working directory entered."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmrun.launch.preflight.PackageQuestion", QuickQuestion)
    (tmp_path / "data").symlink_to(dataset_of_session)
    return Project(tmp_path)


@pytest.fixture
def changed():
    """A frozen dataclass with fields replaced."""
    return dataclasses.replace


@pytest.fixture
def interrupted(project):
    """A run that was killed after step 13; its newest checkpoint is that of step 10."""
    project.backend.dies_after = 13
    project.train()
    project.backend.dies_after = None
    assert steps_in(project.run.checkpoints) == [5, 10]
    return project
