"""The process group of one segment and the device of one rank."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)


def device_of(kind: str, local_rank: int) -> torch.device:
    """The device of a rank: the CPU, or the GPU with its local rank."""
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(D: int, rank: int, device: torch.device) -> Iterator[None]:
    """The group of D ranks, which meet at MASTER_ADDR and MASTER_PORT; D = 1 needs none."""
    if D == 1:
        yield
        return
    backend = "gloo" if device.type == "cpu" else "nccl"
    dist.init_process_group(backend, rank=rank, world_size=D, timeout=TIMEOUT)
    yield
    dist.destroy_process_group()


def local_rank() -> int:
    """This rank's number on its host, from torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))
