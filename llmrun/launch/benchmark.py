"""Times a few real steps of a config by real workers in a temporary directory."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmrun.config.resolve import Resolved, resolved_of
from llmrun.core.lanes import cost_of
from llmrun.core.windows import count_windows
from llmrun.data.manifest import DatasetManifest, read_manifest
from llmrun.data.synthetic import write_random_dataset
from llmrun.errors import InputError, Place
from llmrun.launch.devices import UsableGpus, usable_gpus
from llmrun.launch.energy import EnergyMeter
from llmrun.launch.failure_report import segment_failure
from llmrun.launch.prepared_segment import make_worker_spec
from llmrun.launch.torchrun import ProcessBackend, WorkerJob, Workers, worker_environment
from llmrun.machine import cpus_usable, device_name
from llmrun.plan.forecast import Timed, benchmark_batch
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome
from llmrun.storage.durable import make_directories
from llmrun.storage.metrics.jsonl import Row, Tail
from llmrun.storage.metrics.names import STEP_SECONDS

SEGMENT = 1
WORK_COUNT = "work-count.json"
"""Written by `llmrun.runtime.work_count`."""
RANDOM_TOKENS = 2**20


def trial_config(resolved: Resolved, *, gb_tok: int, V: int, D: int, steps: int) -> Resolved:
    """The config of a trial: the same work per step, `steps` steps, no evaluation, no save but that of the last step."""
    config = resolved.config
    M = gb_tok // config.batch.mu_tok
    batch = {"gb_tok": gb_tok, "V": V, "D": D, "A": M // D if M % D == 0 else None}
    changes = {
        "T_tokens": steps * gb_tok,
        "batch": config.batch.model_copy(update=batch),
        "schedule": config.schedule.model_copy(update={"warmup_tokens": 0, "decay_tokens": None}),
        "eval": config.eval.model_copy(update={"every_steps": None}),
        "checkpoint": config.checkpoint.model_copy(update={"every_steps": None, "every_minutes": None}),
    }
    return resolved_of(config.model_copy(update=changes), D)


@contextmanager
def trial(
    resolved: Resolved, data_path: Path | None, backend: ProcessBackend
) -> Iterator[tuple[RunDirectory, Workers]]:
    """Start workers of a trial config in a temporary directory; on exit they are killed and it is removed.

    data_path: a dataset with at least one window; None: random tokens.
    """
    with TemporaryDirectory(prefix="llmrun-trial-") as temporary:
        place = Path(temporary).resolve()
        if data_path is None:
            data_path = place / "data"
            vocabulary = resolved.config.model.vocab_size
            assert vocabulary is not None, "the config must be resolved"
            n_tokens = max(RANDOM_TOKENS, 2 * resolved.batch.L_ctx)
            write_random_dataset(data_path, vocabulary, n_tokens)
        run = RunDirectory(place / "trial")
        make_directories(run.segment_logs(SEGMENT))
        make_directories(run.checkpoints)
        spec = make_worker_spec(resolved, data_path, None, segment=SEGMENT, until_step=resolved.batch.steps)
        spec = replace(spec, counts_work=resolved.shape is None)
        spec.write(run.worker_spec_file(SEGMENT))
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}  # torch makes it, used or not
        environment = worker_environment(os.environ | caches, resolved.config.hardware.threads_per_rank)
        workers = backend.start(WorkerJob(run, SEGMENT, resolved.batch.D, environment))
        try:
            yield run, workers
        finally:
            workers.kill()


def usable_data(resolved: Resolved) -> Path | None:
    """The config's own dataset if it exists and has a window of L_ctx; else None."""
    written = resolved.config.data.path
    if written is None or not Path(written).exists():
        return None
    manifest: DatasetManifest = read_manifest(Path(written))
    windows = count_windows(manifest.splits["train"].tokens, resolved.batch.L_ctx)
    return Path(written).resolve() if windows else None


WARM_UP_STEPS = 2
"""The first step allocates, the second still runs with cold caches."""
STEPS_LEAST, STEPS_MOST = 5, 60
ENOUGH_S = 15.0
"""Seconds of timed steps after which STEPS_LEAST are enough."""
PATIENCE_S = 180.0
"""After this time, the steps timed so far are enough."""
POLL_S = 0.05
STEPS_OF_A_TRIAL = 10_000
"""More than any trial executes: its last step would save a checkpoint."""


@dataclass
class Stopwatch:
    """Collects step times from the rows of a trial until there are enough.  clock: seconds, monotonic."""

    clock: Callable[[], float] = time.monotonic
    step_s: list[float] = field(default_factory=list)
    _seen: int = 0
    _begun_s: float | None = None

    def add(self, row: Row) -> bool:
        """Add one step; returns whether the timed steps begin after it."""
        self._begun_s = self.clock() if self._begun_s is None else self._begun_s
        self._seen += 1
        if self._seen > WARM_UP_STEPS:
            self.step_s.append(float(row[STEP_SECONDS]))
        return self._seen == WARM_UP_STEPS

    @property
    def is_done(self) -> bool:
        """Whether enough steps were timed, or enough time has passed."""
        n, passed_s = len(self.step_s), 0.0 if self._begun_s is None else self.clock() - self._begun_s
        return (
            n >= STEPS_MOST
            or (n >= STEPS_LEAST and sum(self.step_s) >= ENOUGH_S)
            or (n > 0 and passed_s > PATIENCE_S)
        )


def calibrate(resolved: Resolved, backend: ProcessBackend, check: Callable[[], None]) -> Timed:
    """Train a few steps of this config here, in a temporary directory, and time them.

    On fewer devices than D ranks need, fewer ranks do the same work each.
    check: called several times a second; what it raises ends the trial.
    Raises InputError if this machine does not have the config's device, and the workers' error if they fail.
    """
    device = resolved.config.hardware.device
    size = benchmark_batch(resolved.batch, devices_here(resolved))
    config = trial_config(resolved, gb_tok=size.gb_tok, V=size.V, D=size.D, steps=STEPS_OF_A_TRIAL)
    watch = Stopwatch()
    meter: EnergyMeter | None = None
    energy_J: float | None = None
    with trial(config, usable_data(resolved), backend) as (run, workers):
        for row in rows_of(run, workers, size.D, check):
            if watch.add(row):
                meter = EnergyMeter(device, size.D)
            if watch.is_done:
                energy_J = None if meter is None else meter.joules()
                break
        counted = work_count(run)
    lanes = max(cost_of(size.V, size.D).lanes_per_rank)
    micro_batches = lanes * config.batch.micro_batches_per_lane
    return Timed(tuple(watch.step_s), size.D, micro_batches, energy_J, device_name(device), **counted)


def work_count(run: RunDirectory) -> dict[str, Any]:
    """What the workers of a trial have counted of a model of the user's own; empty for the built-in model."""
    path = run.path / WORK_COUNT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def devices_here(resolved: Resolved) -> int:
    """How many ranks can have a device each on this machine.  Raises InputError if it has none of the kind."""
    hardware = resolved.config.hardware
    wants_gpu = hardware.device == "cuda" or hardware.accelerator is not None
    usable = usable_gpus() if wants_gpu else UsableGpus(0)
    gpus = usable.count
    if wants_gpu and not gpus:
        raise InputError(
            "cannot time this config: there is no GPU here",
            where=Place(key="hardware.accelerator") if hardware.accelerator else "hardware.device",
            caused_by=[] if usable.problem is None else [usable.problem],
            hints=["run `llmrun plan --calibrate` on a machine that has one; without it the MFU is assumed"],
        )
    return gpus if hardware.device == "cuda" else max(1, cpus_usable() // hardware.threads_per_rank)


def rows_of(run: RunDirectory, workers: Workers, D: int, check: Callable[[], None]) -> Iterator[Row]:
    """The rows of a trial as they are written.  Raises the workers' error if they end."""
    tail = Tail(run.metrics_file)
    while True:
        check()
        exit_code = workers.poll()
        yield from tail.new_rows()
        if exit_code is not None:
            files = [run.outcome_file(SEGMENT, rank) for rank in range(D)]
            outcomes = [Outcome.read(file) for file in files if file.exists()]
            raise segment_failure(run, SEGMENT, outcomes, exit_code)
        time.sleep(POLL_S)
