"""What the canonical order of sums costs: bitwise strategies against DDP and plain FSDP2, step by step.

All strategies live in the same processes and take turns (A B C D A B C D …) on the same micro-batches, so a busy
machine slows them alike; quoted are medians and ratios.  Determinism switches are on for the bitwise turns only.

Usage: python benchmarks/reduction.py [--D 2] [--rounds 12] [--A 1] [--mu 1024] [--precision fp32]
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrun.core.loader import MicroBatch
    from llmrun.core.training_spec import TrainingSpec

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 2


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--D", type=int, default=2)
    parser.add_argument("--lanes-per-rank", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--A", type=int, default=1)
    parser.add_argument("--mu", type=int, default=1024)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rank", type=int, default=None)
    return parser.parse_args()


def launch(arguments: argparse.Namespace) -> int:
    """Start D ranks of this script with one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--rank", str(rank)], env=os.environ | variables
        )
        for rank in range(arguments.D)
    ]
    return max(rank.wait() for rank in ranks)


class FixedBatches:
    """Stands in for the loader: the same tokens for every strategy."""

    def __init__(self, sequences: int, L_ctx: int, vocab_size: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(
            0, vocab_size, (sequences, L_ctx + 1), generator=generator, dtype=torch.int32
        )

    def next(self, step: int, number: int) -> "MicroBatch":
        """One micro-batch."""
        from llmrun.core.loader import MicroBatch

        return MicroBatch(step, number, self._tokens)


def main() -> int:
    """Measure, and print one table."""
    arguments = parsed()
    if arguments.rank is None:
        return launch(arguments)
    import torch

    from llmrun.config.load import LoadedConfig
    from llmrun.config.resolve import MachineFacts, resolve, training_spec
    from llmrun.config.schema import Config
    from llmrun.core.determinism import use_deterministic_kernels, use_fast_kernels
    from llmrun.core.state import initial_state
    from llmrun.core.step import train_step
    from llmrun.core.tensor_digest import Digester
    from llmrun.runtime.process_group import device_of, process_group

    D, k = arguments.D, arguments.lanes_per_rank
    V = D * k
    device = device_of("cuda" if torch.cuda.is_available() else "cpu", arguments.rank)
    torch.set_num_threads(1)

    def spec(mode: str, strategy: str) -> "TrainingSpec":
        config = Config.model_validate({
            "model": {"n_layers": 6, "d_model": 384, "n_heads": 6, "d_ff": 1024, "vocab_size": 4096},
            "batch": {"GB_tok": arguments.mu * D * arguments.A * k, "mu_tok": arguments.mu, "L_ctx": 256, "V": V, "D": D},
            "precision": arguments.precision, "strategy": strategy, "hardware": {"device": device.type},
            "reproducibility": {"mode": mode},
        })  # fmt: skip
        return training_spec(resolve(LoadedConfig(config, "benchmark"), None, MachineFacts(D)))

    names = [(m, s) for s in ("replicate", "shard") for m in ("bitwise", "statistical")]
    if D == 1:
        names = names[:2]
    with process_group(D, arguments.rank, device):
        states = {name: initial_state(spec(*name), arguments.rank, device, 1000) for name in names}
        shape = states[names[0]].spec.model.shape
        loader = FixedBatches(arguments.mu // 256, 256, shape.vocab_size)
        digester = Digester(torch.device("cpu"))
        seconds: dict[tuple[str, str], list[float]] = {name: [] for name in names}
        for turn in range(arguments.rounds + WARM_UP):
            for name, state in states.items():
                (use_deterministic_kernels if name[0] == "bitwise" else use_fast_kernels)()
                begun = time.perf_counter()
                train_step(state, loader, digester, lambda: [0])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= WARM_UP:
                    seconds[name].append(time.perf_counter() - begun)
        if arguments.rank == 0:
            report(arguments, names, seconds, device)
    sys.stdout.flush()
    os._exit(0)


def report(
    arguments: argparse.Namespace,
    names: list[tuple[str, str]],
    seconds: dict[tuple[str, str], list[float]],
    device: object,
) -> None:
    """The table."""
    load = os.getloadavg()[0]
    print(f"D = {arguments.D}, {arguments.lanes_per_rank} lanes a rank, A = {arguments.A} per lane, μ_tok = {arguments.mu}, "
          f"{arguments.precision}, {device}, {arguments.rounds} rounds, load {load:.1f}")  # fmt: skip
    for name in names:
        mode, strategy = name
        against = ("statistical", strategy)
        ratios = [a / b for a, b in zip(seconds[name], seconds[against], strict=True)]
        print(f"  {strategy:10s} {mode:12s} {statistics.median(seconds[name]):8.3f} s a step   "
              f"{statistics.median(ratios):6.3f} of {'DDP' if strategy == 'replicate' else 'FSDP2'} (median of pairs)")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
