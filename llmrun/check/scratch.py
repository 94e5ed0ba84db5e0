"""The batch that a check executes, and executions of it by real workers in a scratch directory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from llmrun.config.resolve import Resolved, resolve_for_D
from llmrun.launch.benchmark import trial_config
from llmrun.launch.model_facts import model_variable
from llmrun.launch.prepared_segment import make_worker_spec
from llmrun.launch.scratch_segment import run_scratch_segment
from llmrun.launch.torchrun import ProcessBackend, worker_environment
from llmrun.launch.watch import SegmentEnd, SegmentObserver
from llmrun.run.directory import RunDirectory
from llmrun.run.inspection import Inspection
from llmrun.run.trace import TraceEntry, read_traces
from llmrun.run.worker_spec import read_outcomes
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.ledger.reader import LedgerReader

V = 4
"""Lanes of every check: enough for two ranks, and for three with an uneven share."""

APART = "LLMRUN_EXECUTION"
"""Environment variable that keeps an execution from sharing an agent."""

MICRO_BATCH_TOKENS_ON_CPU = 512
"""Tokens of a micro-batch on a CPU, rounded up to a whole sequence.  A GPU chooses kernels by size: there it stays."""

FLOPS_OF_AN_EXECUTION = 3e11
"""Up to this many FLOPs in all steps of an execution a lane has two micro-batches; else one."""


@dataclass(frozen=True)
class Scratch:
    """The config that a check executes.

    resolved: on D = 1.  changes: what differs from the user's config and may change bits, in words.
    """

    resolved: Resolved
    changes: tuple[str, ...]


def scratch_of(resolved: Resolved, steps: int) -> Scratch:
    """`resolved` with `steps` steps of a small batch in V = 4 lanes, without warm-up and evaluation."""
    given = resolved.config.batch
    mu_tok = given.mu_tok
    if resolved.config.hardware.device == "cpu":
        mu_tok = given.L_ctx * max(1, min(given.mu_tok, MICRO_BATCH_TOKENS_ON_CPU) // given.L_ctx)
    flops = 6 * resolved.model.n_parameters * mu_tok * 2 * V * steps
    per_lane = 2 if flops <= FLOPS_OF_AN_EXECUTION else 1
    gb_tok = V * per_lane * mu_tok
    batch = given.model_copy(update={"mu_tok": mu_tok, "gb_tok": gb_tok})
    smaller = replace(resolved, config=resolved.config.model_copy(update={"batch": batch}))
    found = trial_config(smaller, gb_tok=gb_tok, V=V, D=1, steps=steps)
    config = found.config
    operational = {
        "activation_checkpointing": "none",
        "strategy": "replicate",
        "data": config.data.model_copy(update={"verify": "never", "num_workers": 0}),
        "checkpoint": config.checkpoint.model_copy(
            update={"every_steps": 1, "keep_last": steps, "keep_best": False, "keep_every_steps": None}
        ),
        "reproducibility": config.reproducibility.model_copy(update={"compare_with": "none"}),
    }
    numbers = {
        "T_tokens": (resolved.config.T_tokens, config.T_tokens),
        "batch.GB_tok": (given.gb_tok, gb_tok),
        "batch.μ_tok": (given.mu_tok, mu_tok),
        "batch.V": (given.V, V),
    }
    changes = tuple(f"{key} {old:,} -> {new:,}" for key, (old, new) in numbers.items() if old != new)
    scratch = replace(found, config=config.model_copy(update=operational), facts=resolved.facts)
    return Scratch(scratch, changes)


@dataclass(frozen=True)
class Variant:
    """How an execution differs from the reference; none of it may change a bit.

    title:     for the screen.
    hash_seed: value of PYTHONHASHSEED.
    is_apart:  whether no process is shared with other executions: not even the agent that has imported torch.
    """

    title: str
    D: int = 1
    strategy: str = "replicate"
    num_workers: int = 0
    recomputes: bool = False
    hash_seed: str = "0"
    is_apart: bool = False


@dataclass(frozen=True)
class Portion:
    """Which steps an execution runs, from where, and what is recorded.

    segment:   number of the segment in its directory; 2 continues an execution that was killed.
    from_step: finished steps at the start; if not 0, its checkpoint is in the directory.
    until_step, saves, inspected, killed_after: see `WorkerSpec`.
    """

    until_step: int
    segment: int = 1
    from_step: int = 0
    saves: bool = False
    inspected: bool = False
    killed_after: int | None = None


@dataclass(frozen=True)
class Execution:
    """An execution that has ended.  run: its scratch directory."""

    variant: Variant
    part: Portion
    run: RunDirectory
    end: SegmentEnd

    @cached_property
    def trace(self) -> list[TraceEntry]:
        """The tensors of all ranks, rank by rank, in the order of execution."""
        return read_traces(self.run.path)

    @cached_property
    def ledger(self) -> LedgerReader | None:
        """Its records; None if nothing was recorded."""
        return LedgerReader(self.run.ledger_file) if self.run.ledger_file.exists() else None

    @property
    def inspection(self) -> Inspection | None:
        """What an inspecting worker found."""
        return Inspection.read(self.run.path)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak memory of rank 0 on its device."""
        outcomes = read_outcomes(self.run, self.part.segment, self.variant.D)
        return outcomes[0].peak_memory_bytes if outcomes else None

    @property
    def is_complete(self) -> bool:
        """Whether it reached its last step."""
        return self.end.why in ("finished", "reached")


@dataclass
class ScratchRuns:
    """Executes variants of one scratch config below one directory.

    ranks_most: that this machine has devices for.
    compared: checkpoints that every execution compares its states with; none before there is a reference.
    """

    scratch: Scratch
    data_path: Path
    directory: Path
    backend: ProcessBackend
    observer: SegmentObserver
    ranks_most: int = V
    compared: Sequence[Path] = field(default_factory=tuple)

    def execute(self, name: str, variant: Variant, part: Portion) -> Execution:
        """Execute one variant in the directory `name`, from the start or on from an earlier segment there."""
        run = RunDirectory(self.directory / name)
        resolved = self._resolved(variant)
        spec = make_worker_spec(
            resolved,
            self.data_path,
            None,
            segment=part.segment,
            from_step=part.from_step,
            checkpoint=step_name(part.from_step) if part.from_step else None,
            until_step=part.until_step,
        )
        spec = replace(
            spec,
            saves=part.saves,
            traced=not part.inspected,
            trace_only_between_modules=True,
            inspected=part.inspected,
            killed_after=part.killed_after,
            compared=[str(path) for path in self.compared],
        )
        threads = resolved.config.hardware.threads_per_rank
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(self.directory / "inductor")}  # torch makes it, used or not
        own_model = model_variable(resolved.config)
        environment = worker_environment(os.environ | caches | own_model, threads)
        environment["PYTHONHASHSEED"] = variant.hash_seed
        if variant.is_apart:
            environment[APART] = name  # agents are shared only for equal variables
        end = run_scratch_segment(run, spec, environment, self.backend, self.observer)
        return Execution(variant, part, run, end)

    def compare_with_checkpoints_of(self, reference: Execution, steps: int) -> None:
        """Let all later executions compare their states with the checkpoints of `reference`."""
        paths = [reference.run.checkpoints / step_name(step) for step in range(1, steps + 1)]
        self.compared = [path.resolve() for path in paths]

    def _resolved(self, variant: Variant) -> Resolved:
        """The scratch config of a variant."""
        resolved = resolve_for_D(self.scratch.resolved, variant.D)
        config = resolved.config
        changes = {
            "strategy": variant.strategy,
            "activation_checkpointing": "block" if variant.recomputes else "none",
            "data": config.data.model_copy(update={"num_workers": variant.num_workers}),
        }
        return replace(resolved, config=config.model_copy(update=changes))
