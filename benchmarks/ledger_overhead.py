"""What the ledger costs in each training step, and how fast its digests are beside a copy.

    python benchmarks/ledger_overhead.py [--rounds 20] [--precision fp32] [--d-model 256] [--gb 8192] [--device cpu]

One rank takes real steps (`llmrun.core.step`) of one model on one set of tokens; in every second step the ledger is
switched off: no digests of tokens, gradients, weights and moments, no record, no per-tensor digests.  Steps with and
without take turns, in pairs whose order alternates, so a busy machine slows them alike.  Printed are the medians, their
ratio, the median of the pairs' own ratios, and the time spent inside the ledger's code in the steps that have it.
Ten steps in a row hold one digest of the optimizer's state, as in a run.  On the CPU one thread, as one rank has.

The target is 1 % of a compute-bound step.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrun.core.state import TrainingState
    from llmrun.core.step import StepResult

VARIABLES = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
TARGET = 0.01
WARM_UP = 3
CONFIG = """\
name: overhead
T_tokens: {T_tokens}
model: {{n_layers: {n_layers}, d_model: {d_model}, n_heads: 4, n_kv_heads: 2, d_ff: {d_ff}, vocab_size: 4096}}
batch: {{GB_tok: {gb}, μ_tok: {mu}, L_ctx: 128, V: {V}, D: 1}}
schedule: {{warmup_tokens: {gb}}}
data: {{path: unread}}
precision: {precision}
hardware: {{device: {device}, threads_per_rank: 1}}
"""


@dataclass
class Ledger:
    """Does what a rank and the recorder do for the ledger, and counts the seconds."""

    directory: Path
    n_steps: int
    seconds: float = 0.0
    is_on: bool = True
    writer: Any = field(default=None)

    def timed(self, work: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
        """`work` with its time counted; `otherwise` where the ledger is off."""

        def call(*arguments: Any) -> Any:
            if not self.is_on:
                return otherwise(*arguments)
            begun = time.perf_counter()
            found = work(*arguments)
            self.seconds += time.perf_counter() - begun
            return found

        return call

    def record(self, state: "TrainingState", facts: "StepResult") -> None:
        """Combine, append, and keep single digests where they are due."""
        from llmrun.core.combined_digest import combine_digests
        from llmrun.core.state import WEIGHTS, by_name, slots_by_suffix
        from llmrun.storage.ledger.record import LedgerRecord, tensors_due
        from llmrun.storage.ledger.tensors import write_tensors
        from llmrun.storage.ledger.writer import LedgerWriter

        slots = slots_by_suffix(state)
        tensors = {
            "gradients": by_name(slots, {WEIGHTS: facts.gradient_digests}),
            "weights": by_name(slots, {WEIGHTS: facts.state_digests[WEIGHTS]}),
        }
        moments = {suffix: found for suffix, found in facts.state_digests.items() if suffix != WEIGHTS}
        if moments:
            tensors["optimizer"] = by_name(slots, moments)
        if self.writer is None:
            self.writer = LedgerWriter.create(self.directory / "ledger.bin", "benchmark", self.n_steps)
            self.writer.append(LedgerRecord(step=0, weights_digest=1))
        number = self.writer.next_step
        digests = {f"{name}_digest": combine_digests(found) for name, found in tensors.items()}
        self.writer.append(
            LedgerRecord(
                step=number,
                tokens=number * facts.tokens,
                loss=facts.loss,
                grad_norm=facts.grad_norm,
                learning_rate=facts.learning_rate,
                tokens_digest=facts.tokens_digest,
                **digests,
            )
        )
        if tensors_due(number):
            write_tensors(self.directory / "ledger-tensors", number, tensors)


def build(arguments: argparse.Namespace, directory: Path, n_steps: int) -> "TrainingState":
    """The state of one rank before its first step."""
    import torch

    from llmrun.config.load import load_config
    from llmrun.config.resolve import DatasetFacts, MachineFacts, resolve, training_spec
    from llmrun.core.determinism import set_determinism
    from llmrun.core.state import initial_state

    mu = arguments.mu or min(arguments.gb, 2048)
    config = CONFIG.format(
        T_tokens=n_steps * arguments.gb,
        n_layers=arguments.layers,
        d_model=arguments.d_model,
        d_ff=arguments.d_model * 8 // 3,
        gb=arguments.gb,
        mu=mu,
        V=arguments.gb // mu,
        precision=arguments.precision,
        device=arguments.device,
    )
    (directory / "overhead.yaml").write_text(config, encoding="utf-8")
    facts = DatasetFacts(vocab_size=4096, train_tokens=10**7, val_tokens=10**5)
    resolved = resolve(
        load_config(directory / "overhead.yaml", []), facts, MachineFacts(gpus=torch.cuda.device_count())
    )
    spec = training_spec(resolved)
    set_determinism(spec)
    return initial_state(spec, 0, torch.device(arguments.device), 10**4)


class RandomTokens:
    """A loader whose micro-batches are drawn once."""

    def __init__(self, state: "TrainingState") -> None:
        import torch

        batch = state.spec.batch
        generator = torch.Generator().manual_seed(0)
        shape = (batch.M, batch.sequences, batch.L_ctx + 1)
        self.tokens = torch.randint(0, 4096, shape, generator=generator, dtype=torch.int32)

    def next(self, step: int, number: int) -> Any:
        """See `llmrun.core.loader.Loader`."""
        from llmrun.core.loader import MicroBatch

        return MicroBatch(step, number, self.tokens[number])


def measure(arguments: argparse.Namespace, directory: Path) -> None:
    """Take steps in pairs and print what they cost."""
    import torch

    from llmrun.core import state as state_module
    from llmrun.core import step as module
    from llmrun.core.tensor_digest import Digester

    n_steps = 2 * (arguments.rounds + WARM_UP)
    state = build(arguments, directory, n_steps)
    ledger = Ledger(directory, n_steps)
    loader, token_digester = RandomTokens(state), Digester(torch.device("cpu"))
    digests = token_digester.digests
    token_digester.digests = ledger.timed(digests, lambda _: [])  # type: ignore[method-assign]
    state_module.partial_digests = ledger.timed(
        state_module.partial_digests, lambda _, shard: [0] * len(shard.slots)
    )
    due = module.optimizer_due
    module.optimizer_due = lambda step: ledger.is_on and due((step + 1) // 2)
    record = ledger.timed(ledger.record, lambda *_: None)
    wait = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None

    def one_step(is_on: bool) -> tuple[float, float]:
        ledger.is_on, ledger.seconds = is_on, 0.0
        wait()
        begun = time.perf_counter()
        facts = module.train_step(state, loader, token_digester, list)  # type: ignore[arg-type]
        record(state, facts)
        wait()
        return time.perf_counter() - begun, ledger.seconds

    pairs = []
    for number in range(arguments.rounds + WARM_UP):
        found = {is_on: one_step(is_on) for is_on in ((True, False) if number % 2 else (False, True))}
        pairs.append((found[True][0], found[False][0], found[True][1]))
    report(arguments, state, pairs[WARM_UP:])


def report(
    arguments: argparse.Namespace, state: "TrainingState", pairs: Sequence[tuple[float, float, float]]
) -> None:
    """Print the table."""
    on, off, inside = (list(column) for column in zip(*pairs, strict=True))
    n_parameters = sum(slot.numel for slot in state.strategy.slots)
    median_on, median_off = statistics.median(on), statistics.median(off)
    ratios = [with_ledger / without for with_ledger, without, _ in pairs]
    share = statistics.mean(inside) / statistics.mean(off)
    print(
        f"{n_parameters:,} parameters in {len(state.strategy.slots)} tensors, {arguments.gb:,} tokens a step,"
    )
    print(f"{arguments.precision} on {arguments.device}, {len(pairs)} pairs, load {os.getloadavg()[0]:.1f}")
    print(f"{'step with the ledger, median':<44}{median_on * 1e3:>10.2f} ms")
    print(f"{'step without, median':<44}{median_off * 1e3:>10.2f} ms")
    print(f"{'ratio of the medians':<44}{median_on / median_off:>10.4f}")
    print(f"{'median of the ratios of pairs':<44}{statistics.median(ratios):>10.4f}")
    print(f"{'inside the ledger, mean of a step':<44}{statistics.mean(inside) * 1e3:>10.2f} ms")
    print(f"{'of a step without':<44}{share:>10.2%}   target {TARGET:.0%}")


def digest_speed(device: str) -> None:
    """GB/s of the digest over 256 MiB, over many small tensors, and of a copy."""
    import torch

    from llmrun.core.tensor_digest import Digester, words_of

    values = torch.randn(2**26, device=device)
    target = torch.empty_like(values)
    digester = Digester(torch.device(device))
    small = [words_of(part) for part in values[: 2**22].split(2**14)]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    rows = {
        "copy of 256 MiB": (values.nbytes, lambda: target.copy_(values)),
        "digest of 256 MiB": (values.nbytes, lambda: digester.digest(values)),
        "digest of 256 tensors of 64 KiB": (2**24, lambda: digester.digests(small)),
    }
    for name, (n_bytes, work) in rows.items():
        seconds = []
        for _ in range(7):
            wait()
            begun = time.perf_counter()
            work()
            wait()
            seconds.append(time.perf_counter() - begun)
        best = min(seconds)
        moved = 2 * n_bytes if name.startswith("copy") else n_bytes
        print(
            f"{name:<44}{n_bytes / best / 1e9:>10.2f} GB/s   {moved / best / 1e9:.2f} GB/s of memory traffic"
        )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--gb", type=int, default=8192)
    parser.add_argument("--mu", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in VARIABLES.items()):
        os.execve(
            sys.executable, [sys.executable, *sys.argv], os.environ | VARIABLES
        )  # before torch is imported
    with tempfile.TemporaryDirectory() as directory:
        measure(arguments, Path(directory))
    digest_speed(arguments.device)


if __name__ == "__main__":
    main()
