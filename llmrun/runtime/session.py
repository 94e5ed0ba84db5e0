"""One segment on one rank: builds everything that the loop needs, in the one right order, then runs the loop.

Determinism switches come before the first tensor, loader workers before the process group and the model (they are
forked), generators before anything draws.  Code and environment are compared with the worker spec after the fork (the
comparison computes, and CUDA may not be in use before) and before the first weight.
"""

import json
import os
import signal
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from llmrun.config.resolve import resolved_of, training_spec
from llmrun.config.schema import Config
from llmrun.core.batch import Batch
from llmrun.core.determinism import set_determinism
from llmrun.core.evaluate import Evaluator
from llmrun.core.generators import seed_everything
from llmrun.core.loader import Loader, MicroBatches
from llmrun.core.model.factory import FactorySpec
from llmrun.core.parallel.select import hosted_lanes
from llmrun.core.state import TrainingState, initial_state
from llmrun.core.streams import stream_key
from llmrun.core.training_spec import TrainingSpec
from llmrun.core.windows import Split
from llmrun.data.manifest import DatasetManifest, read_manifest
from llmrun.data.order_file import open_order
from llmrun.data.shard_reader import open_split
from llmrun.errors import LlmrunError, RunFailedError
from llmrun.machine import die_with_parent
from llmrun.plan.hardware import accelerator_named
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.run.signals import WORKER_STOP_SIGNALS, WorkerStopRequest
from llmrun.run.warnings import WarningsWriter
from llmrun.run.worker_spec import OutcomeKind, WorkerSpec
from llmrun.runtime.evaluation import Validation
from llmrun.runtime.hooks import Hooks, attached
from llmrun.runtime.instruments import instruments
from llmrun.runtime.loop import Loop
from llmrun.runtime.model_import import ModelImport, import_model
from llmrun.runtime.model_watch import ModelWatch
from llmrun.runtime.process_group import device_of, local_rank, process_group
from llmrun.runtime.progress import PeakMemory, Progress
from llmrun.runtime.recorder import PRODUCER, Recorder
from llmrun.runtime.self_check import check_after_training, check_before_training
from llmrun.runtime.state_dict import restore
from llmrun.runtime.work_count import WorkCount
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.ledger.compare import Audit
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.ledger.writer import LedgerWriter
from llmrun.storage.metrics.jsonl import JsonLines
from llmrun.storage.metrics.loss_band import Baseline, BaselineWatch
from llmrun.storage.metrics.sink import MetricsSinks
from llmrun.storage.metrics.tensorboard import TensorBoard
from llmrun.storage.metrics.throughput import Throughput

UNCHECKED_SHARDS = (
    "data.verify is never: shards are not compared with their sha256, so the fingerprint promises equal bits only for"
    " undamaged files; `llmrun data check` checks them"
)


def run_segment(
    run: RunDirectory, worker_spec: WorkerSpec, stop: WorkerStopRequest, progress: Progress
) -> OutcomeKind:
    """Train from `worker_spec.from_step` until `worker_spec.until_step` or a request to stop; returns how it ended.

    progress: kept up to date, also if training fails.
    Raises LlmrunError for everything that a user can cause; the state on disk is then that of the last committed
    checkpoint.
    """
    rank = progress.rank
    config = Config.model_validate_json(json.dumps(worker_spec.config))
    if rank == 0:
        progress.live = WarningsWriter(run.warnings_file(worker_spec.segment))
        if config.data.verify == "never" and worker_spec.saves:
            progress.warn(UNCHECKED_SHARDS)
    spec = training_spec(resolved_of(config, worker_spec.D))
    set_determinism(spec)
    seed_everything(stream_key(config.seed, "boundary", worker_spec.from_step))
    manifest = read_manifest(Path(worker_spec.data_path))
    train, validation = _splits(worker_spec, config, spec.batch, manifest)
    loader = _loader(run, worker_spec, config, spec, train, rank)
    device = device_of(config.hardware.device, local_rank())
    model = ModelImport.of(config)
    if model is not None:
        assert isinstance(spec.model, FactorySpec)
        import_model(model, spec.model)
    check_before_training(worker_spec, device, rank)
    with process_group(worker_spec.D, rank, device), ExitStack() as stack:
        progress.peak = PeakMemory(device).read
        state = initial_state(spec, rank, device, train.n_windows)
        checkpoint = _checkpoint(run, worker_spec)
        if checkpoint is not None:
            restore(state, checkpoint)
        fence = Fence(run.lock_file, worker_spec.token)
        fence.check(now=True)
        recorder = None
        if rank == 0:
            recorder = _recorder(run, worker_spec, config, state, progress, manifest, fence)
            stack.enter_context(closing(recorder))
        loop = Loop(
            run,
            worker_spec,
            config,
            state,
            loader,
            validation,
            recorder,
            stop,
            progress,
            None if checkpoint is None else checkpoint.trainer,
            fence,
            [
                *_watching(run, spec, progress, worker_spec),
                *instruments(run, worker_spec, loader.batches),
                *attached(),
            ],
        )
        kind = loop.run()
        check_after_training(worker_spec, device, rank)
        return kind


def _watching(
    run: RunDirectory, spec: TrainingSpec, progress: Progress, worker_spec: WorkerSpec
) -> list[Hooks]:
    """What watches a user's own model, and what counts its work if that is asked for."""
    found: list[Hooks] = [WorkCount(run, progress)] if worker_spec.counts_work else []
    if isinstance(spec.model, FactorySpec):
        found.append(ModelWatch(spec.model.facts, progress, worker_spec.until_step))
    return found


def _loader(
    run: RunDirectory, worker_spec: WorkerSpec, config: Config, spec: TrainingSpec, train: Split, rank: int
) -> Loader:
    """The micro-batches of this rank; forks the loader workers."""
    batch = spec.batch
    n_entries = batch.steps * batch.M * batch.sequences
    order = open_order(run.path, config.seed, train.n_windows, n_entries=n_entries)
    return Loader(
        MicroBatches(train, order, batch),
        batch,
        rank,
        hosted_lanes(spec, rank),
        range(worker_spec.from_step, worker_spec.until_step),
        config.seed,
        config.data.num_workers,
        LoaderWorkerStart(os.getpid()),
    )


def _checkpoint(run: RunDirectory, worker_spec: WorkerSpec) -> Checkpoint | None:
    """The checkpoint that the segment starts from; None if it starts at step 0."""
    if worker_spec.checkpoint is None:
        return None
    checkpoint = open_checkpoint(run.checkpoints / worker_spec.checkpoint)
    if checkpoint.step != worker_spec.from_step:
        raise RunFailedError(
            f"orders.json must name a checkpoint of step {worker_spec.from_step}, got {checkpoint.path.name}"
        )
    return checkpoint


@dataclass(frozen=True)
class LoaderWorkerStart:
    """Ties a loader worker's life to its rank, and makes it ignore stop signals.

    A batch system may signal every process of a job, and the rank needs its data until it has saved.
    """

    rank_pid: int

    def __call__(self) -> None:
        """Run first in each loader worker."""
        die_with_parent(self.rank_pid)
        for number in WORKER_STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _splits(
    worker_spec: WorkerSpec, config: Config, batch: Batch, manifest: DatasetManifest
) -> tuple[Split, Validation | None]:
    """The training windows; the validation if the config asks for one."""
    directory = Path(worker_spec.data_path)
    verify = config.data.verify == "always"
    train = open_split(directory, manifest, "train", batch.L_ctx, verify)
    if config.eval.every_steps is None:
        return train, None
    val = open_split(directory, manifest, "val", batch.L_ctx, verify)
    evaluator = Evaluator(val, config.seed, config.eval.windows, batch.sequences)
    return train, Validation(evaluator, manifest.splits["val"].bytes_per_token)


def _recorder(
    run: RunDirectory,
    worker_spec: WorkerSpec,
    config: Config,
    state: TrainingState,
    progress: Progress,
    manifest: DatasetManifest,
    fence: Fence,
) -> Recorder:
    """Rank 0's recorder: ledger, earlier ledgers to compare with, and metrics, opened at the segment's first step."""
    batch = state.spec.batch
    if worker_spec.checkpoint is None and not run.ledger_file.exists():
        ledger = LedgerWriter.create(run.ledger_file, PRODUCER, batch.steps)
    else:
        at_step = None if worker_spec.checkpoint is None else worker_spec.from_step
        ledger = LedgerWriter.resume(run.ledger_file, at_step, batch.steps)
    flops_per_token = state.spec.model.flops_per_token
    peak_flops = None if flops_per_token is None else _peak_flops(config, progress)
    throughput = Throughput(worker_spec.D, flops_per_token or 0, peak_flops)
    tails = [_audit(run.path / name, progress) for name in worker_spec.audit_tails]
    reference = None
    if worker_spec.reference_ledger is not None:
        reference = _audit(Path(worker_spec.reference_ledger), progress)
    baseline = BaselineWatch(Baseline.read(run.baseline_file).band) if worker_spec.baseline else None
    sinks = MetricsSinks.open(
        [JsonLines(run.metrics_file), TensorBoard(run.tensorboard)],
        worker_spec.from_step,
        _texts(run, worker_spec),
        progress.warn,
    )
    return Recorder(
        run,
        ledger,
        state.strategy.slots,
        sinks,
        throughput,
        [tail for tail in tails if tail is not None],
        reference,
        progress,
        manifest.splits["train"].bytes_per_token,
        stop_at_reference=config.reproducibility.on_difference == "stop",
        baseline=baseline,
        fence=fence,
    )


def _audit(path: Path, progress: Progress) -> Audit | None:
    """An earlier ledger to compare with; None, with a warning, if it cannot be read: the comparison is best-effort."""
    try:
        return Audit(LedgerReader(path))
    except (OSError, LlmrunError) as error:
        message = error.message if isinstance(error, LlmrunError) else error.strerror
        progress.warn(f"cannot compare with {path}: {message}")
        return None


def _peak_flops(config: Config, progress: Progress) -> float | None:
    """Peak FLOP/s of one GPU for the MFU; None on a CPU, without an accelerator, or if its row cannot be read."""
    accelerator = config.hardware.accelerator
    if config.hardware.device == "cpu" or accelerator is None:
        return None
    try:
        return accelerator_named(accelerator, table=config.hardware.table).peak_FLOPs(config.precision)
    except LlmrunError as error:
        progress.warn(f"cannot measure MFU: {error.message}")
        return None


def _texts(run: RunDirectory, worker_spec: WorkerSpec) -> dict[str, str]:
    """The texts that TensorBoard shows: config, git commit, packages."""
    provenance = run.segment_provenance(worker_spec.segment)
    found = {
        "config": run.config_file,
        "git": provenance / "git.json",
        "pip_freeze": provenance / "pip-freeze.txt",
    }
    return {name: path.read_text(encoding="utf-8") for name, path in found.items() if path.exists()}
