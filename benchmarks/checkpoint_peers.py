"""The other sides of benchmarks/checkpoint.py: torch.save, torch.distributed.checkpoint, a plain copy, a raw write.

torch.save at D > 1 is what DDP users do: rank 0 saves everything, the others wait.  torch.distributed.checkpoint
gets what FSDP2 users give it: `get_state_dict` of a sharded model, each rank its half.  Both hold the same model and
a filled AdamW.  A side's `begin` is what stops the loop, `finish` the rest until every byte is forced to the device.
"""

import os
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llmrun.core.model.shape import ModelShape
from llmrun.core.model.transformer import Transformer
from llmrun.storage.durable import DISK

RAW_BLOCK_BYTES = 1024 * 1024


class Side(Protocol):
    """One way to save."""

    name: str

    def begin(self) -> None:
        """Save, as far as the loop waits for it."""

    def finish(self) -> None:
        """Wait until all is on the device, on every rank."""

    def clear(self) -> None:
        """Remove what was saved."""


def barrier() -> None:
    """Wait for all ranks; one rank waits for none."""
    if dist.is_initialized():
        dist.barrier()


def force(path: Path) -> None:
    """Force a file and its name to the device."""
    descriptor = DISK.open(path)
    try:
        DISK.fsync(descriptor)
    finally:
        DISK.close(descriptor)
    DISK.fsync_directory(path.parent)


class Trained:
    """The peers' model and AdamW, whole on this rank or sharded by FSDP2."""

    def __init__(self, shape: ModelShape, D: int, *, sharded: bool) -> None:
        torch.manual_seed(1)
        self.model: nn.Module = Transformer(shape)
        if sharded:
            mesh = init_device_mesh("cpu", (D,))
            for block in self.model.model.layers:  # type: ignore[union-attr]
                fully_shard(block, mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        for parameter in self.model.parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(1.0),
                "exp_avg": torch.randn_like(parameter).detach(),
                "exp_avg_sq": torch.rand_like(parameter).detach(),
            }

    def state_dict(self) -> dict[str, Any]:
        """As the documentation of torch.distributed.checkpoint says."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def take(self, state: dict[str, Any]) -> None:
        """The way back."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


class PlainCopy:
    """The limit of a stall: the bytes of a rank into buffers that were touched before."""

    name = "plain copy"

    def __init__(self, owned: list[Tensor], buffers: list[Tensor]) -> None:
        self._pairs = list(zip(owned, buffers, strict=True))

    def begin(self) -> None:
        """Copy."""
        for values, buffer in self._pairs:
            buffer.copy_(values)

    def finish(self) -> None:
        """Nothing more: this is not saved."""

    def clear(self) -> None:
        """Nothing to remove."""


class RawWrite:
    """The limit of durability: each rank its bytes in two files, written in blocks, fsynced; nothing hashed.

    Blocks of 1 MiB: through the page cache they are written faster than larger ones.
    """

    name = "raw write + fsync"

    def __init__(self, place: Path, owned: list[Tensor], rank: int) -> None:
        self._place = place
        place.mkdir(exist_ok=True)
        first, *rest = [values.numpy() for values in owned]
        self._files: dict[Path, list[np.ndarray]] = {
            place / f"model-{rank}": [first],
            place / f"optimizer-{rank}": rest,
        }

    def begin(self) -> None:
        """Write and fsync."""
        for path, arrays in self._files.items():
            descriptor = DISK.create(path)
            for array in arrays:
                view = memoryview(array).cast("B")
                for start in range(0, len(view), RAW_BLOCK_BYTES):
                    DISK.write(descriptor, view[start : start + RAW_BLOCK_BYTES])
            DISK.fsync(descriptor)
            DISK.close(descriptor)
        DISK.fsync_directory(self._place)

    def finish(self) -> None:
        """The others are done too."""
        barrier()

    def clear(self) -> None:
        """Remove this rank's files."""
        for path in self._files:
            DISK.remove_file(path)
        DISK.fsync_directory(self._place)


class TorchSave:
    """`torch.save` by rank 0; what it wrote is forced to the device afterwards, which it does not do itself."""

    name = "torch.save"

    def __init__(self, place: Path, trained: Trained, rank: int) -> None:
        self.path, self.trained, self._rank = place / "torch.pt", trained, rank

    def begin(self) -> None:
        """Rank 0 saves, the others wait."""
        if self._rank == 0:
            torch.save(
                {
                    "model": self.trained.model.state_dict(),
                    "optimizer": self.trained.optimizer.state_dict(),
                },
                self.path,
            )
        barrier()

    def finish(self) -> None:
        """The fsync."""
        if self._rank == 0:
            force(self.path)
        barrier()

    def clear(self) -> None:
        """Remove the file."""
        if self._rank == 0:
            DISK.remove_file(self.path)
            DISK.fsync_directory(self.path.parent)

    def load(self, *, mmap: bool) -> None:
        """Every rank reads the file."""
        saved = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mmap)
        self.trained.model.load_state_dict(saved["model"])
        self.trained.optimizer.load_state_dict(saved["optimizer"])


class DcpSave:
    """`torch.distributed.checkpoint.save`, which fsyncs its files."""

    name = "dcp.save"

    def __init__(self, place: Path, trained: Trained, rank: int) -> None:
        self.path, self.trained, self._rank = place / self.name, trained, rank
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def begin(self) -> None:
        """Save; returns when all is written."""
        dcp.save(self.trained.state_dict(), checkpoint_id=self.path, process_group=self._group)

    def finish(self) -> None:
        """The names, which it leaves to the system."""
        barrier()
        if self._rank == 0:
            DISK.fsync_directory(self.path)
            DISK.fsync_directory(self.path.parent)
        barrier()

    def clear(self) -> None:
        """Remove the directory."""
        barrier()
        if self._rank == 0:
            shutil.rmtree(self.path)
            DISK.fsync_directory(self.path.parent)

    def load(self) -> None:
        """Each rank reads its half."""
        state = self.trained.state_dict()
        dcp.load(state, checkpoint_id=self.path, process_group=self._group)
        self.trained.take(state)


class DcpAsyncSave(DcpSave):
    """`async_save` in a thread; with `reuse` one stager is kept, whose buffers serve again."""

    def __init__(self, place: Path, trained: Trained, rank: int, *, reuse: bool) -> None:
        self.name = "dcp.async_save, kept stager" if reuse else "dcp.async_save"
        super().__init__(place, trained, rank)
        self._stager = DefaultStager(StagingOptions(*[False] * 4)) if reuse else None
        self.future: Future[Any] | None = None

    def begin(self) -> None:
        """Copy and hand over."""
        found = dcp.async_save(
            self.trained.state_dict(),
            checkpoint_id=self.path,
            process_group=self._group,
            async_stager=self._stager,
        )
        assert isinstance(found, Future)
        self.future = found

    def finish(self) -> None:
        """Wait for the thread."""
        assert self.future is not None
        self.future.result()
        super().finish()


def drop_from_cache(paths: list[Path]) -> None:
    """Ask the system to forget the pages of files; it does so where they are on a disk and written back."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
