"""The order file says what the function says."""

import errno
import json
import os
import pickle
import tracemalloc
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from llmrun.core.order import Order
from llmrun.data import order_file
from llmrun.data.order_file import DamagedOrderError, OrderFile, is_wanted, open_order, prepare_order_file
from llmrun.errors import RefusedError
from llmrun.storage.durable import Disk, sha256_of

SEED, W, ENTRIES = 42, 1000, 2500


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with an order file."""
    assert prepare_order_file(tmp_path, "always", SEED, W, ENTRIES) == "written"
    return tmp_path


def test_file_equals_function(run_dir):
    """File and function agree at every position."""
    order = open_order(run_dir, SEED, W)

    assert isinstance(order, OrderFile)
    assert np.array_equal(order.entries(0, ENTRIES), Order(SEED, W).entries(0, ENTRIES))
    assert order.entries(990, 20).tolist() == Order(SEED, W).entries(990, 20).tolist()


def test_bytes(run_dir):
    """The file is plain uint64 little-endian with the source 0 in the high 16 bits, its facts beside it."""
    content = (run_dir / "order/order.bin").read_bytes()
    values = np.frombuffer(content, dtype="<u8")

    assert values.tolist() == Order(SEED, W).entries(0, ENTRIES).tolist()
    assert not (values >> np.uint64(order_file.SOURCE_SHIFT)).any()
    assert json.loads((run_dir / "order/order.json").read_text()) == {
        "format": "llmrun-order/1",
        "bytes": 20000,
        "sha256": sha256_of(run_dir / "order/order.bin"),
        "entries": 2500,
        "seed": 42,
        "n_windows": 1000,
    }


def test_written_blockwise(run_dir, tmp_path, monkeypatch):
    """The size of a write changes nothing."""
    monkeypatch.setattr(order_file, "WRITE_ENTRIES", 999)
    prepare_order_file(tmp_path / "other", "always", SEED, W, ENTRIES)

    assert (tmp_path / "other/order/order.bin").read_bytes() == (run_dir / "order/order.bin").read_bytes()


def test_reused(run_dir):
    """A sound file of the same order is left as it is."""
    before = (run_dir / "order/order.bin").stat().st_ino

    assert prepare_order_file(run_dir, "auto", SEED, W, ENTRIES) == "reused"
    assert (run_dir / "order/order.bin").stat().st_ino == before


def flip(path):
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": lambda d: flip(d / "order.bin"),
    "short file": lambda d: (d / "order.bin").write_bytes((d / "order.bin").read_bytes()[:-8]),
    "missing file": lambda d: (d / "order.bin").unlink(),
    "missing facts": lambda d: (d / "order.json").unlink(),
    "facts no JSON": lambda d: (d / "order.json").write_text("{"),
    "facts a list": lambda d: (d / "order.json").write_text("[]"),
    "facts of text": lambda d: (d / "order.json").write_text('{"format": "llmrun-order/1", "seed": "42"}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_is_rewritten(run_dir, damage):
    """A damaged or incomplete order file is written again, with the right content."""
    damage(run_dir / "order")

    assert prepare_order_file(run_dir, "auto", SEED, W, ENTRIES) == "rewritten"
    assert open_order(run_dir, SEED, W).entries(0, ENTRIES).tolist() == (
        Order(SEED, W).entries(0, ENTRIES).tolist()
    )


def test_forged_is_rewritten(run_dir):
    """A file whose sha256 holds but which is another order's is written again."""
    prepare_order_file(run_dir, "always", SEED + 1, W, ENTRIES)
    facts = json.loads((run_dir / "order/order.json").read_text())
    (run_dir / "order/order.json").write_text(json.dumps({**facts, "seed": SEED}))

    assert prepare_order_file(run_dir, "always", SEED, W, ENTRIES) == "rewritten"


@pytest.mark.parametrize("facts", [(SEED + 1, W), (SEED, W - 1)])
def test_other_order_is_not_read(run_dir, facts):
    """A file of another seed or number of windows is never taken for this one."""
    assert open_order(run_dir, *facts) == Order(*facts)


def test_a_file_that_is_too_short_is_not_read(run_dir):
    """Where the run needs more entries than the file holds, the function answers."""
    assert isinstance(open_order(run_dir, SEED, W, n_entries=ENTRIES), OrderFile)
    assert open_order(run_dir, SEED, W, n_entries=ENTRIES + 1) == Order(SEED, W)


@pytest.mark.parametrize(("policy", "n_entries"), [("never", ENTRIES), ("never", 99), ("auto", 2**27 + 1)])
def test_a_file_that_is_not_wanted_is_not_read(run_dir, policy, n_entries):
    """A file of an earlier segment, which nobody checks any more, is not used; it can be wanted again."""
    flip(run_dir / "order/order.bin")

    assert prepare_order_file(run_dir, policy, SEED, W, n_entries) == "none"
    assert open_order(run_dir, SEED, W) == Order(SEED, W)
    assert prepare_order_file(run_dir, "always", SEED, W, ENTRIES) == "rewritten"


def test_function_without_file(tmp_path):
    """Without a file the function answers."""
    assert open_order(None, SEED, W) == open_order(tmp_path, SEED, W) == Order(SEED, W)
    assert prepare_order_file(tmp_path, "never", SEED, W, ENTRIES) == "none"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("policy", "n_entries", "expected"),
    [
        ("auto", 2**27, True),
        ("auto", 2**27 + 1, False),
        ("always", 2**27 + 1, True),
        ("never", 1, False),
    ],
)
def test_policy(policy, n_entries, expected):
    """The policy `auto` writes up to 1 GiB."""
    assert is_wanted(policy, n_entries) is expected


def test_pickled_by_name(run_dir):
    """An order file travels to a loader process as a name and reads the same there."""
    order = open_order(run_dir, SEED, W)
    message = pickle.dumps(order)

    assert len(message) < 1000
    assert pickle.loads(message).entries(5, 50).tolist() == order.entries(5, 50).tolist()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_unwritable(tmp_path, code):
    """A full disk or missing permission is refused with the setting that avoids the file; no partial file stays."""
    disk = Disk()
    disk.write = Mock(side_effect=OSError(code, os.strerror(code)))

    with pytest.raises(RefusedError) as refused:
        prepare_order_file(tmp_path, "always", SEED, W, ENTRIES, disk)

    assert os.strerror(code) in refused.value.message
    assert str(refused.value.where) == str(tmp_path / "order")
    assert "data.order_file=never" in refused.value.hints[0]
    assert list((tmp_path / "order").iterdir()) == []


def rewrite_entry(directory, place):
    """Exchange an entry with its neighbour, and make the sha256 right."""
    values = np.fromfile(directory / "order.bin", dtype="<u8")
    values[[place, place + 1]] = values[[place + 1, place]]
    values.tofile(directory / "order.bin")
    stated = json.loads((directory / "order.json").read_text())
    stated["sha256"] = sha256_of(directory / "order.bin")
    (directory / "order.json").write_text(json.dumps(stated))


def test_an_order_changed_in_the_middle_with_its_sha256_made_right_is_written_again(tmp_path):
    """The function decides: every entry of a file of this size is held against it."""
    assert prepare_order_file(tmp_path, "always", SEED, W, 50_000) == "written"
    rewrite_entry(tmp_path / "order", 25_000)

    assert prepare_order_file(tmp_path, "always", SEED, W, 50_000) == "rewritten"
    assert np.array_equal(
        np.fromfile(tmp_path / "order/order.bin", dtype="<u8"), Order(SEED, W).entries(0, 50_000)
    )


def test_an_entry_that_a_loader_reads_is_the_functions_or_an_error(run_dir):
    """Whatever changed the file after the start, in a loader worker too: no other sample is trained on."""
    order = open_order(run_dir, SEED, W)
    rewrite_entry(run_dir / "order", 1200)
    unpickled = pickle.loads(pickle.dumps(open_order(run_dir, SEED, W)))

    assert order.entries(0, 1200).tolist() == Order(SEED, W).entries(0, 1200).tolist()
    for reader in (order, unpickled):
        with pytest.raises(DamagedOrderError) as caught:
            reader.entries(1190, 20)
        assert caught.value.exit_code == 4
        assert "entry 1,200" in caught.value.message


def test_a_large_file_is_compared_in_blocks_that_reach_both_ends():
    """At most COMPARED_ENTRIES entries, spread evenly; a smaller file whole."""
    n_entries = 40 * order_file.COMPARED_ENTRIES + 12_345
    blocks = list(order_file.compared_blocks(n_entries))
    gaps = {later - start for (start, _), (later, _) in pairwise(blocks)}

    assert sum(count for _, count in blocks) == order_file.COMPARED_ENTRIES
    assert blocks[0][0] == 0
    assert sum(blocks[-1]) == n_entries
    assert max(gaps) - min(gaps) <= 1
    assert sum(count for _, count in order_file.compared_blocks(2_500_000)) == 2_500_000


def test_the_file_is_written_block_by_block(tmp_path: Path, monkeypatch) -> None:
    """Writing 16 MiB holds a few blocks at a time, never the whole file."""
    monkeypatch.setattr(order_file, "WRITE_ENTRIES", 2**15)
    n_entries = 2**21
    tracemalloc.start()
    try:
        prepare_order_file(tmp_path, "always", seed=1, n_windows=10**6, n_entries=n_entries)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (tmp_path / "order" / "order.bin").stat().st_size == 8 * n_entries
    assert peak < 8 * 2**20
