"""A few real steps by real workers in a temporary directory: no lock, no fingerprint, nothing left behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrun.config.resolve import Resolved, resolved_of
from llmrun.data.manifest import Manifest, read_manifest
from llmrun.data.synthetic import write_random_dataset
from llmrun.data.windows import count_windows
from llmrun.durable import make_directories
from llmrun.launch.environment import worker_environment
from llmrun.launch.starter import Starter, WorkerJob, Workers
from llmrun.run.directory import RunDirectory
from llmrun.run.orders import SegmentOrders

SEGMENT = 1
NO_FINGERPRINT = "0" * 64
RANDOM_TOKENS = 2**20


def trial_config(resolved: Resolved, *, gb_tok: int, V: int, D: int, steps: int) -> Resolved:
    """The config of a trial: the same work a step, only `steps` of it, without evaluation and timed saves.

    The last step saves a checkpoint; whoever does not want it ends the trial before.
    """
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
    resolved: Resolved, data_path: Path | None, starter: Starter
) -> Iterator[tuple[RunDirectory, Workers]]:
    """Started workers of a trial config; on leaving they are killed and the directory is gone.

    data_path: of a dataset with a window at least; None: tokens drawn at random.
    """
    with TemporaryDirectory(prefix="llmrun-trial-") as temporary:
        place = Path(temporary).resolve()
        if data_path is None:
            data_path = place / "data"
            n_tokens = max(RANDOM_TOKENS, 2 * resolved.batch.L_ctx)
            write_random_dataset(data_path, resolved.shape.vocab_size, n_tokens)
        run = RunDirectory(place / "trial")
        make_directories(run.segment_logs(SEGMENT))
        make_directories(run.checkpoints)
        _orders(resolved, data_path).write(run.orders_file(SEGMENT))
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}  # torch makes it, used or not
        environment = worker_environment(os.environ | caches, resolved.config.hardware.threads_per_rank)
        workers = starter.start(WorkerJob(run, SEGMENT, resolved.batch.D, environment))
        try:
            yield run, workers
        finally:
            workers.kill()


def usable_data(resolved: Resolved) -> Path | None:
    """The config's own dataset where there is one with a window of L_ctx; else None."""
    written = resolved.config.data.path
    if written is None or not Path(written).exists():
        return None
    manifest: Manifest = read_manifest(Path(written))
    windows = count_windows(manifest.splits["train"].tokens, resolved.batch.L_ctx)
    return Path(written).resolve() if windows else None


def _orders(resolved: Resolved, data_path: Path) -> SegmentOrders:
    """What the workers are told."""
    return SegmentOrders(
        segment=SEGMENT,
        D=resolved.batch.D,
        from_step=0,
        checkpoint=None,
        until_step=resolved.batch.steps,
        fingerprint=NO_FINGERPRINT,
        parts={},
        config=resolved.config.model_dump(mode="json", by_alias=True),
        audit_tails=[],
        twin_ledger=None,
        data_path=str(data_path),
    )
