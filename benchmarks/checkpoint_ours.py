"""llmrun's side of benchmarks/checkpoint.py: its own classes over a model's state, and its own training step."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, Resolved, resolve, training_spec
from llmrun.config.schema import Config
from llmrun.core.loader import MicroBatch
from llmrun.core.reduce.collectives import gather_integers
from llmrun.core.state import WEIGHTS, TrainingState, initial_state, slots_by_suffix, whole_digests
from llmrun.core.step import StepResult, train_step
from llmrun.core.tensor_digest import Digester
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import Fence
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.async_writer import PENDING
from llmrun.runtime.checkpoint_policy import CheckpointPolicy
from llmrun.runtime.evaluation import ValidationHistory
from llmrun.runtime.progress import Progress
from llmrun.runtime.recorder import PRODUCER, Recorder
from llmrun.runtime.state_dict import restore
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.reader import Checkpoint, open_checkpoint
from llmrun.storage.checkpoint.retention import delete
from llmrun.storage.ledger.writer import LedgerWriter
from llmrun.storage.metrics.sink import Sinks
from llmrun.storage.metrics.throughput import Throughput

POLL_S = 0.001
L_CTX = 128
STEPS = 10_000
SOME_DIGEST = "00" * 32


def resolved_model(n_params: int, mu_tok: int, D: int) -> Resolved:
    """A Llama of about `n_params` parameters, D lanes of one micro-batch; only the newest checkpoint is kept."""
    wide = n_params >= 30_000_000
    d_model, d_ff, vocabulary = (768, 2048, 16_384) if wide else (256, 688, 2048)
    per_layer = 4 * d_model**2 + 3 * d_model * d_ff
    n_layers = max(1, round((n_params - vocabulary * d_model) / per_layer))
    config = Config.model_validate({
        "T_tokens": STEPS * mu_tok * D,
        "model": {"n_layers": n_layers, "d_model": d_model, "n_heads": d_model // 64, "d_ff": d_ff, "vocab_size": vocabulary},
        "batch": {"GB_tok": mu_tok * D, "mu_tok": mu_tok, "L_ctx": L_CTX, "V": D, "D": D},
        "schedule": {"warmup_tokens": 0},
        "checkpoint": {"keep_last": 1, "every_minutes": None},
        "hardware": {"device": "cpu", "threads_per_rank": 1},
    })  # fmt: skip
    return resolve(LoadedConfig(config, "benchmark"), None, MachineFacts(0))


class Ours:
    """`CheckpointPolicy` of a real state, its moments filled with random values."""

    name = "llmrun"

    def __init__(self, place: Path, resolved: Resolved, rank: int) -> None:
        self.state = initial_state(training_spec(resolved), rank, torch.device("cpu"), n_windows=1000)
        for moment in self.state.optimizer.moments.values():
            moment.values.normal_().abs_()
        self.run = RunDirectory(place / "run")
        self._fence = Fence(self.run.lock_file, None)
        if rank == 0:
            self.run.checkpoints.mkdir(parents=True)
        self._worker_spec = WorkerSpec(
            segment=1,
            D=resolved.batch.D,
            from_step=0,
            checkpoint=None,
            until_step=STEPS,
            fingerprint=SOME_DIGEST,
            parts=dict.fromkeys(("config", "data", "code", "environment"), SOME_DIGEST),
            config=resolved.config.model_dump(mode="json", by_alias=True),
            audit_tails=[],
            reference_ledger=None,
            data_path=str(place),
        )
        progress = Progress.at_start(self._worker_spec, rank)
        recorder = self._recorder(progress) if rank == 0 else None
        digests, _ = whole_digests(self.state, {WEIGHTS: self.state.as_shard(self.state.strategy.weights)})
        if recorder is not None:
            recorder.initial(digests)
        self.checkpoints = CheckpointPolicy(
            self.run,
            self._worker_spec,
            resolved.config,
            self.state,
            ValidationHistory(),
            recorder,
            progress,
            self._fence,
        )

    def _recorder(self, progress: Progress) -> Recorder:
        """A real ledger and metrics.jsonl: a commit forces both to the device."""
        D, slots = self.state.D, slots_by_suffix(self.state)
        ledger = LedgerWriter.create(self.run.ledger_file, PRODUCER, STEPS)
        sinks = Sinks.open(self.run.metrics_file, None, 0, {})
        speed = Throughput(D, 1, None)
        return Recorder(
            self.run,
            ledger,
            slots,
            sinks,
            speed,
            [],
            None,
            progress,
            1.0,
            stop_at_reference=False,
            baseline=None,
            fence=self._fence,
        )

    @property
    def path(self) -> Path:
        """The newest checkpoint."""
        return self.run.checkpoints / step_name(self.state.step)

    def begin(self) -> None:
        """What a save costs the loop: the room check of all ranks, the copy to host buffers, the start of the thread."""
        self.state.step += 1
        self.checkpoints.save(required=False)

    def finish(self) -> None:
        """Wait until rank 0 has committed; nothing old is there, so nothing is verified after it."""
        if self.state.rank == 0:
            while self.checkpoints.flags()[1] == PENDING:
                time.sleep(POLL_S)
        state = self.state
        self.take_flags(gather_integers(self.checkpoints.flags(), state.D, state.device))

    def take_flags(self, rows: list[list[int]]) -> None:
        """Tell all ranks how the save stands, as the loop does with each step.  Raises where it failed."""
        self.checkpoints.take_flags(rows, {})

    def clear(self) -> None:
        """Rank 0: remove the checkpoint."""
        if self.state.rank == 0:
            delete(self.run.checkpoints, [self.state.step])

    def load(self, checkpoint: Checkpoint | None = None) -> None:
        """Read this rank's state back, digests of all tensors compared."""
        restore(self.state, checkpoint or open_checkpoint(self.path))


class Training:
    """Real steps of a small model: what keeps one core of each rank busy while a save is under way."""

    def __init__(self, rank: int, D: int, n_params: int, mu_tok: int) -> None:
        resolved = resolved_model(n_params, mu_tok, D)
        self._state: TrainingState = initial_state(
            training_spec(resolved), rank, torch.device("cpu"), n_windows=1000
        )
        self._digester = Digester(torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        shape = (mu_tok // L_CTX, L_CTX + 1)
        self._tokens = torch.randint(
            0, resolved.shape.vocab_size, shape, generator=generator, dtype=torch.int32
        )

    def next(self, step: int, number: int) -> MicroBatch:
        """Stands in for the loader: the same tokens always."""
        return MicroBatch(step, number, self._tokens)

    def step(self, flags: Callable[[], list[int]]) -> tuple[float, StepResult]:
        """One step with these flags; (seconds, facts)."""
        begun_s = time.perf_counter()
        facts = train_step(self._state, self, self._digester, flags)  # type: ignore[arg-type]
        return time.perf_counter() - begun_s, facts


def warm_copy(state: TrainingState) -> tuple[list[Tensor], list[Tensor]]:
    """(what a rank owns, buffers of the same size that were touched): for the plain copy, which is the limit."""
    owned = [state.strategy.weights.detach(), *(moment.values for moment in state.optimizer.moments.values())]
    return owned, [torch.zeros_like(values).fill_(1.0) for values in owned]
