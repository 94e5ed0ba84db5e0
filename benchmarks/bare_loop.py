"""A bare training loop in plain PyTorch: the baseline of train_overhead.py, which runs it.

    python benchmarks/bare_loop.py CONFIG STEPS
    python -m torch.distributed.run --standalone --nproc-per-node=2 benchmarks/bare_loop.py CONFIG STEPS

The same model, tokens per step, precision and fused AdamW as `llmrun train CONFIG`, and nothing of its promise:
no order of sums, no seeds, no switches, no digests, no records.  DDP adds gradients where there are two ranks.
Rank 0 prints the time at which each step ended (time.perf_counter, seconds) as one JSON list.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llmrun.config.load import load_config
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.core.model.transformer import Transformer
from llmrun.core.token_stream import DTYPES
from llmrun.data.manifest import facts, read_manifest


def tokens_of(directory: Path) -> NDArray[np.unsignedinteger]:
    """The first shard of the training split, memory-mapped."""
    manifest = read_manifest(directory)
    shard = manifest.splits["train"].shards[0]
    return np.memmap(directory / shard.name, dtype=DTYPES[manifest.dtype], mode="r")


def random_batch(tokens: NDArray[np.unsignedinteger], sequences: int, L_ctx: int) -> Tensor:
    """Windows from random places: [sequences, L_ctx + 1], int64."""
    starts = torch.randint(len(tokens) - L_ctx - 1, (sequences,)).tolist()
    return torch.from_numpy(
        np.stack([tokens[start : start + L_ctx + 1].astype(np.int64) for start in starts])
    )


def train(resolved: Resolved, directory: Path, D: int, steps: int) -> list[float]:
    """Train for some steps; the time at the end of each."""
    config, batch, tokens = resolved.config, resolved.batch, tokens_of(directory)
    A = batch.M // D
    model: nn.Module = Transformer(resolved.shape)
    if D > 1:
        model = DistributedDataParallel(model)
    adamw = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr, fused=True)
    ended_s = []
    for _ in range(steps):
        total = 0.0
        for a in range(A):
            waits = D > 1 and a < A - 1
            with model.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
                with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                    loss, n_targets = model(random_batch(tokens, batch.sequences, batch.L_ctx))
                mean = loss / (n_targets * A)
                mean.backward()
            total += mean.item()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or float("inf"))
        adamw.step()
        adamw.zero_grad()
        ended_s.append(time.perf_counter())
    return ended_s


def main() -> None:
    """Train as the arguments and torchrun's variables say."""
    if len(sys.argv) != 3:
        print("bare_loop.py CONFIG STEPS is the baseline of train_overhead.py, which runs it")
        return
    torch.set_num_threads(1)
    loaded = load_config(Path(sys.argv[1]))
    directory = Path(loaded.config.data.path or "")
    resolved = resolve(loaded, facts(read_manifest(directory)), MachineFacts(gpus=0))
    D, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if D > 1:
        dist.init_process_group("gloo")
    ended_s = train(resolved, directory, D, int(sys.argv[2]))
    if rank == 0:
        print(json.dumps(ended_s), flush=True)
    if D > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
