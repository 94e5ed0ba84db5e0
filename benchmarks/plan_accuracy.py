"""How far the planner is off: planned against measured, as Markdown tables for docs/planning-accuracy.md.

    python benchmarks/plan_accuracy.py memory [unseen] [default] [NUMBER…]
    python benchmarks/plan_accuracy.py time [ROUNDS] [STEPS]

memory: peak memory of a rank on the CPU over the configs below; each is two real steps and a save by real workers
under torchrun.  Measured is what the run itself records: the peak of resident anonymous memory above that of
the worker just before it builds the model.  glibc is told to give every block of 64 KiB and more its own mapping
(MALLOC_MMAP_THRESHOLD_), so that what is freed goes back; `default` leaves it as users have it.  `unseen` takes the
configs on which no formula was settled.
time:   for each config in turn `calibrate`, then a training of STEPS (default 40), ROUNDS (default 2) times; the
forecast of a step against the median step of the training.  Beside it stand the spread of the timed steps and the same
comparison of the fastest step of either side, which other work on the machine disturbs least.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.core.lanes import cost_of
from llmrun.core.model.flops import flops_per_token
from llmrun.launch.benchmark import SEGMENT, calibrate, trial, trial_config
from llmrun.launch.torchrun import TorchrunBackend
from llmrun.plan.forecast import estimate
from llmrun.plan.memory import Memory, Setting, memory_of
from llmrun.run.worker_spec import Outcome
from llmrun.storage.metrics.jsonl import rows
from llmrun.storage.metrics.names import STEP_SECONDS

MAPPED_BYTES = 65_536
SKIPPED_STEPS = 2
CONFIG = """\
name: accuracy
T_tokens: 1Mi
model: {n_layers: 4, d_model: 256, n_heads: 4, n_kv_heads: 2, d_ff: 688, vocab_size: 4096}
batch: {GB_tok: 4Ki, μ_tok: 2Ki, L_ctx: 128, V: 2, D: 1}
precision: fp32
data: {num_workers: 0}
schedule: {warmup_tokens: 0}
eval: {every_steps: null}
hardware: {device: cpu, threads_per_rank: 1}
"""
WIDE = "model.d_model=512 model.n_heads=8 model.d_ff=1376 model.n_layers=8 batch.μ_tok=256 batch.GB_tok=512"
LARGE_VOCAB = "model.vocab_size=32000 batch.μ_tok=512 batch.GB_tok=1Ki"
DEEP = "model.vocab_size=512 model.n_layers=12"
GPT = "model.mlp=gelu model.norm=layernorm model.bias=true model.position=learned"
MEMORY_CONFIGS = (
    "",
    "precision=bf16",
    "model.tie_embeddings=false",
    "model.tie_embeddings=false precision=bf16",
    "batch.μ_tok=1Ki batch.GB_tok=2Ki",
    "batch.μ_tok=4Ki batch.GB_tok=8Ki precision=bf16",
    "batch.V=1 batch.GB_tok=2Ki",
    "batch.V=8 batch.μ_tok=1Ki batch.GB_tok=8Ki",
    "activation_checkpointing=block",
    "activation_checkpointing=block precision=bf16",
    DEEP,
    f"{DEEP} activation_checkpointing=block",
    f"{DEEP} activation_checkpointing=block precision=bf16 model.dropout=0.1",
    LARGE_VOCAB,
    f"{LARGE_VOCAB} model.tie_embeddings=false precision=bf16",
    f"{LARGE_VOCAB} batch.μ_tok=128 batch.GB_tok=256",
    WIDE,
    f"{WIDE} precision=bf16",
    f"{GPT}",
    f"{GPT} precision=bf16 model.dropout=0.1",
    "model.position=alibi",
    "model.qk_norm=true precision=bf16",
    "batch.L_ctx=1Ki precision=bf16",
    "batch.D=2",
    "batch.D=2 precision=bf16 model.tie_embeddings=false",
    f"{WIDE} batch.D=2",
    f"{LARGE_VOCAB} batch.D=2",
    f"{WIDE} batch.D=2 strategy=shard",
    f"{WIDE} batch.D=2 strategy=shard precision=bf16",
    "batch.D=2 strategy=shard activation_checkpointing=block model.n_layers=8",
)
UNSEEN_CONFIGS = (
    (
        "model.n_layers=6 model.d_model=320 model.n_heads=5 model.n_kv_heads=5 model.d_ff=896"
        " batch.μ_tok=512 batch.GB_tok=1536 batch.V=3"
    ),
    (
        "model.vocab_size=10000 model.d_model=384 model.n_heads=6 model.d_ff=1024 batch.μ_tok=1Ki"
        " batch.GB_tok=4Ki batch.V=4 precision=bf16 model.dropout=0.1"
    ),
    "model.mlp=gelu model.d_ff=1024 activation_checkpointing=block model.n_layers=10 batch.L_ctx=256",
    (
        "model.mlp=gelu model.norm=layernorm model.d_ff=1024 precision=bf16"
        " activation_checkpointing=block model.vocab_size=1000 model.n_layers=8"
    ),
    "model.position=alibi precision=bf16 activation_checkpointing=block model.n_layers=6 batch.L_ctx=256",
    "batch.D=2 batch.V=8 batch.μ_tok=512 batch.GB_tok=4Ki model.n_layers=6 optimizer.implementation=foreach",
    (
        "batch.D=2 batch.V=4 batch.μ_tok=1Ki batch.GB_tok=4Ki strategy=shard model.n_layers=6"
        " model.vocab_size=12000"
    ),
    (
        "batch.D=2 batch.V=4 batch.μ_tok=512 batch.GB_tok=2Ki strategy=shard precision=bf16"
        " model.tie_embeddings=false model.n_layers=10"
    ),
    "model.qk_norm=true model.dropout=0.1 batch.L_ctx=512",
    (
        "model.n_layers=16 model.d_model=192 model.n_heads=3 model.n_kv_heads=1 model.d_ff=512"
        " model.vocab_size=2000 model.position=none precision=bf16"
    ),
)
"""Chosen after the formulas and their one constant (libraries) were settled on those above, and run once."""
TIME_CONFIGS = (
    "batch.μ_tok=1Ki",
    "batch.μ_tok=1Ki precision=bf16",
    "batch.μ_tok=1Ki batch.V=4 batch.D=2",
    "batch.μ_tok=1Ki activation_checkpointing=block",
    "batch.μ_tok=512 batch.GB_tok=2Ki model.vocab_size=16000",
    "model.d_model=128 model.d_ff=344 batch.μ_tok=1Ki",
)


def resolved_of_text(directory: Path, overrides: Sequence[str]) -> Resolved:
    """The config above with some of it changed."""
    path = directory / "accuracy.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return resolve(load_config(path, list(overrides)), None, MachineFacts(gpus=0))


def planned_memory(resolved: Resolved) -> Memory:
    """The plan of one rank's memory."""
    config, batch = resolved.config, resolved.batch
    setting = Setting(
        D=batch.D,
        mu_tok=batch.mu_tok,
        lanes=cost_of(batch.V, batch.D),
        precision=config.precision,
        recomputes=config.activation_checkpointing == "block",
        device="cpu",
        V=batch.V,
        strategy=config.strategy,
        implementation=config.optimizer.implementation,
    )
    return memory_of(resolved.shape, setting)


def train(resolved: Resolved, steps: int) -> tuple[list[Outcome], list[float]]:
    """A real training of `steps` to its end: how the ranks ended, and the seconds of each step."""
    batch = resolved.batch
    config = trial_config(resolved, gb_tok=batch.gb_tok, V=batch.V, D=batch.D, steps=steps)
    with trial(config, None, TorchrunBackend()) as (run, workers):
        while workers.poll() is None:
            time.sleep(0.05)
        outcomes = [Outcome.read(run.outcome_file(SEGMENT, rank)) for rank in range(batch.D)]
        seconds = [float(row[STEP_SECONDS]) for row in rows(run.metrics_file)]
    for outcome in outcomes:
        if outcome.error is not None:
            sys.exit(f"a rank failed: {outcome.error}")
    return outcomes, seconds


@dataclass(frozen=True)
class Row:
    """One comparison."""

    config: str
    planned: float
    measured: float
    message: str

    @property
    def error(self) -> float:
        """Planned over measured, less 1."""
        return self.planned / self.measured - 1.0


def memory_row(directory: Path, overrides: str) -> Row:
    """Two steps of one config."""
    resolved = resolved_of_text(directory, overrides.split())
    plan = planned_memory(resolved)
    outcomes, _ = train(resolved, steps=2)
    peaks = [outcome.peak_memory_bytes for outcome in outcomes]
    measured = max(peak for peak in peaks if peak is not None)
    return Row(overrides or "(as above)", plan.device_bytes / 1e6, measured / 1e6, plan.moment)


def time_row(directory: Path, overrides: str, steps: int) -> Row:
    """Calibrate, then train, one config."""
    resolved = resolved_of_text(directory, overrides.split())
    timed = calibrate(resolved, TorchrunBackend(), lambda: None)
    planned = estimate(timed, resolved.batch, flops_per_token(resolved.shape), None)
    _, seconds = train(resolved, steps)
    measured = statistics.median(seconds[SKIPPED_STEPS:])
    fastest = min(timed.step_s) / min(seconds[SKIPPED_STEPS:]) - 1.0
    message = f"{planned.steps_timed} steps, ± {planned.spread:.1%}; fastest step {fastest:+.1%}"
    return Row(overrides, planned.step_s * 1000, measured * 1000, message)


def header(title: str, unit: str, last: str) -> None:
    """The head of a table."""
    print(
        f"{title}\n\n| config | planned, {unit} | measured, {unit} | error | {last} |\n|---|---|---|---|---|"
    )


def line(row: Row) -> None:
    """One row of a table, at once."""
    config = f"`{row.config}`".replace("batch.", "").replace("model.", "")
    print(
        f"| {config} | {row.planned:,.1f} | {row.measured:,.1f} | {round(row.error, 3) + 0.0:+.1%} | {row.message} |",
        flush=True,
    )


def summary(found: Sequence[Row]) -> None:
    """What the table comes to."""
    errors = sorted(abs(row.error) for row in found)
    at_90 = errors[-(-9 * len(errors) // 10) - 1]
    print(
        f"\n{len(errors)} comparisons: median error {statistics.median(errors):.1%}, 90th percentile {at_90:.1%},"
        f" worst {errors[-1]:.1%}; load {os.getloadavg()[0]:.1f}"
    )


def memory(directory: Path, arguments: Sequence[str]) -> None:
    """The table of memory."""
    as_users_have_it = "default" in arguments
    if not as_users_have_it:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(MAPPED_BYTES)
    configs = UNSEEN_CONFIGS if "unseen" in arguments else MEMORY_CONFIGS
    chosen = [configs[int(given)] for given in arguments if given.isdecimal()]
    header("Peak memory of a rank", "MB", "moment of the planned peak")
    found = []
    for overrides in chosen or configs:
        found.append(memory_row(directory, overrides))
        line(found[-1])
    summary(found)


def timing(directory: Path, rounds: int, steps: int) -> None:
    """The table of step times."""
    header("Time of a step", "ms", "from")
    found = []
    for _ in range(rounds):
        for overrides in TIME_CONFIGS:
            found.append(time_row(directory, overrides, steps))
            line(found[-1])
    summary(found)


def main() -> None:
    """Measure what is asked for; both in short without arguments."""
    what, *rest = sys.argv[1:] or ["both"]
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if what in ("memory", "both"):
            memory(directory, rest)
        if what in ("time", "both"):
            numbers = [int(given) for given in rest if given.isdecimal()]
            timing(directory, *(numbers + [2, 40][len(numbers) :]))


if __name__ == "__main__":
    main()
