"""The order file: the sample order of a run, computed before training (docs/data-format.md, The order file).

order/order.bin    uint64 little-endian, one per sequence: high 16 bits the index of the source (0 for a single
                   dataset), low 48 bits the window
order/order.json   format, bytes, sha256, entries, seed, n_windows

The function `core.order.Order` is authoritative.  The file is compared with it when a segment starts
(`COMPARED_ENTRIES`), and each entry again when a loader reads it; a file that differs is written again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmrun.core.order import BLOCK_ENTRIES, Entries, Order
from llmrun.errors import RefusedError, RunFailedError
from llmrun.storage.durable import DISK, Disk, make_directories, replace_file, replace_json, sha256_of

FORMAT = "llmrun-order/1"
ENTRY_BYTES = 8
SOURCE_SHIFT = 48
WINDOW_MASK = 2**SOURCE_SHIFT - 1
AUTO_BYTES_MAX = 2**30
WRITE_ENTRIES = 1024 * 1024
"""Entries per write: 8 MiB."""
COMPARED_ENTRIES = 16 * 1024 * 1024
"""Entries compared with the function when a segment starts: all of a file up to this size (128 MiB, about half a
second); of a larger file this many, in blocks of BLOCK_ENTRIES spread evenly over it, including both ends."""


class DamagedOrderError(RunFailedError):
    """The order file differs from the order (exit 4, because it is found while training)."""


Outcome = Literal["written", "reused", "rewritten", "none"]


@dataclass(frozen=True)
class OrderFile:
    """A memory-mapped order file of `n_entries` entries, and the order that it must contain."""

    n_entries: int
    mapped: NDArray[np.uint64]
    order: Order

    def entries(self, start: int, count: int) -> NDArray[np.uint64]:
        """Positions [start, start + count) of the order: uint64 [count], a copy.

        Raises DamagedOrderError if the file differs from the function there.
        """
        assert 0 <= start <= start + count <= self.n_entries, (start, count, self.n_entries)
        found = np.array(self.mapped[start : start + count], dtype=np.uint64)
        unequal = np.flatnonzero(found != self.order.entries(start, count))
        if unequal.size:
            place = start + int(unequal[0])
            raise DamagedOrderError(
                f"entry {place:,} of the order file must be {self.order.entry(place):,}, got "
                f"{int(found[unequal[0]]):,}",
                where=str(getattr(self.mapped, "filename", "order.bin")),
                hints=[
                    "remove order.bin: `llmrun resume RUN` writes it again",
                    "`--set data.order_file=never` computes the order instead, with the same bits",
                ],
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path instead of the content."""
        path = Path(str(getattr(self.mapped, "filename", "")))
        return _map, (path, self.n_entries, self.order)


def is_wanted(policy: Literal["auto", "always", "never"], n_entries: int) -> bool:
    """Whether the setting `data.order_file` asks for a file; `auto` does for up to 1 GiB."""
    if policy == "auto":
        return n_entries * ENTRY_BYTES <= AUTO_BYTES_MAX
    return policy == "always"


def prepare_order_file(
    run_dir: Path,
    policy: Literal["auto", "always", "never"],
    seed: int,
    n_windows: int,
    n_entries: int,
    disk: Disk = DISK,
) -> Outcome:
    """Make sure that there is a sound order file of `n_entries` entries if `policy` wants one.

    An existing file with this order is reused after its size, sha256 and entries are checked; any other is written
    again ("rewritten").  If no file is wanted, order.json is removed, so that an unchecked file is never read.
    Raises RefusedError if the file cannot be written.
    """
    order = Order(seed, n_windows)
    directory = run_dir / "order"
    if not is_wanted(policy, n_entries):
        disk.remove_file(directory / "order.json")
        return "none"
    exists = directory.exists()
    if exists and _is_sound(directory, order, n_entries):
        return "reused"
    try:
        _write(directory, order, n_entries, disk)
    except OSError as error:
        raise _refusal(directory, n_entries, error) from error
    return "rewritten" if exists else "written"


def open_order(run_dir: Path | None, seed: int, n_windows: int, n_entries: int | None = None) -> Entries:
    """The order for a loader: the file if the run has one of this order, else the function.

    n_entries: a file with fewer entries is not used; None accepts any length.
    Checks order.json and the size only: `prepare_order_file` checked the rest before the workers started, and each
    entry is compared with the function when it is read.
    """
    order = Order(seed, n_windows)
    if run_dir is None:
        return order
    directory = run_dir / "order"
    stated = _stated(directory)
    if stated is None or not _is_of(stated, order) or not _has_size(directory, stated):
        return order
    if n_entries is not None and stated["entries"] < n_entries:
        return order
    return _map(directory / "order.bin", stated["entries"], order)


def _map(path: Path, n_entries: int, order: Order) -> OrderFile:
    mapped: NDArray[np.uint64] = np.memmap(path, dtype=np.dtype("<u8"), mode="r", shape=(n_entries,))
    return OrderFile(n_entries, mapped, order)


def _write(directory: Path, order: Order, n_entries: int, disk: Disk) -> None:
    """Write both files, order.json last."""
    make_directories(directory, disk)
    disk.remove_file(directory / "order.json")
    n_bytes, sha256 = replace_file(directory / "order.bin", _blocks(order, n_entries), disk)
    stated = {
        "format": FORMAT,
        "bytes": n_bytes,
        "sha256": sha256,
        "entries": n_entries,
        "seed": order.seed,
        "n_windows": order.n_windows,
    }
    replace_json(directory / "order.json", stated, disk)


def _blocks(order: Order, n_entries: int) -> Iterator[memoryview]:
    """The content of the file in blocks of WRITE_ENTRIES."""
    for start in range(0, n_entries, WRITE_ENTRIES):
        block = order.entries(start, min(WRITE_ENTRIES, n_entries - start))
        yield np.ascontiguousarray(block, dtype="<u8").data.cast("B")


def _stated(directory: Path) -> dict[str, Any] | None:
    """The content of order.json; None if it is missing or invalid."""
    try:
        stated = json.loads((directory / "order.json").read_bytes())
    except (OSError, ValueError):
        return None
    whole = ("bytes", "entries", "seed", "n_windows")
    if not isinstance(stated, dict) or stated.get("format") != FORMAT:
        return None
    if not all(type(stated.get(name)) is int for name in whole):
        return None
    sound = stated["entries"] > 0 and stated["bytes"] == stated["entries"] * ENTRY_BYTES
    return stated if sound else None


def _is_of(stated: dict[str, Any], order: Order) -> bool:
    return (stated["seed"], stated["n_windows"]) == (order.seed, order.n_windows)


def _has_size(directory: Path, stated: dict[str, Any]) -> bool:
    path = directory / "order.bin"
    return path.is_file() and path.stat().st_size == stated["bytes"]


def _is_sound(directory: Path, order: Order, n_entries: int) -> bool:
    """Whether the file contains this order: checks order.json, size, sha256 and entries."""
    stated = _stated(directory)
    if stated is None or not _is_of(stated, order) or stated["entries"] != n_entries:
        return False
    path = directory / "order.bin"
    if not _has_size(directory, stated) or sha256_of(path) != stated["sha256"]:
        return False
    mapped = _map(path, n_entries, order).mapped
    return all(
        np.array_equal(mapped[start : start + count], order.entries(start, count))
        for start, count in compared_blocks(n_entries)
    )


def compared_blocks(n_entries: int) -> Iterator[tuple[int, int]]:
    """The blocks (start, count) of a file that are compared with the function when a segment starts."""
    if n_entries <= COMPARED_ENTRIES:
        for start in range(0, n_entries, WRITE_ENTRIES):
            yield start, min(WRITE_ENTRIES, n_entries - start)
        return
    n_blocks = COMPARED_ENTRIES // BLOCK_ENTRIES
    last_start = n_entries - BLOCK_ENTRIES
    for block in range(n_blocks):
        yield last_start * block // (n_blocks - 1), BLOCK_ENTRIES


def _refusal(directory: Path, n_entries: int, error: OSError) -> RefusedError:
    """The error for an order file that cannot be written."""
    size = n_entries * ENTRY_BYTES
    hints = ["`--set data.order_file=never` computes the order instead, with the same bits"]
    return RefusedError(
        f"cannot write the order file of {size:,} bytes: {error.strerror}", where=str(directory), hints=hints
    )
