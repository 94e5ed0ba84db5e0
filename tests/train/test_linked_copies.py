"""A copy of a run that shares its files by links is independent of the original."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.storage.metrics.jsonl import AppendedFile
from warm.bits import chain_of


def contents(run: RunDirectory) -> dict[str, bytes]:
    """Every file of a run."""
    files = sorted(path for path in run.path.rglob("*") if path.is_file())
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


def test_a_linked_copy_leaves_the_original_alone(driver, pool):
    """`cp -al`, then each of the two is resumed: no file of the other changes."""
    driver.train(pool, "original", until=5)
    original, copy = driver.run("original"), driver.run("copy")
    subprocess.run(["cp", "-al", original.path, copy.path], check=True)
    before = contents(original)

    driver.resume(pool, "copy", until=8)

    assert contents(original) == before
    assert LedgerReader(copy.ledger_file).last_step == 8
    assert LedgerReader(original.ledger_file).last_step == 5
    of_copy = contents(copy)

    driver.resume(pool, "original", "optimizer.lr=1e-4", allow=["config"], until=7)

    assert contents(copy) == of_copy
    assert chain_of(original) != chain_of(copy)
    rows = [json.loads(line)["step"] for line in original.metrics_file.read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_lock_is_held_on_one_of_two_linked_copies(tmp_path, link):
    """Training the copy does not lock the original, and releasing one frees that one only."""
    original, copy = tmp_path / "a" / "run.lock", tmp_path / "b" / "run.lock"
    for path in (original, copy):
        path.parent.mkdir()
    RunLock.acquire(original).release()
    link(original, copy)

    with RunLock.acquire(copy):
        assert original.read_bytes() == b""
        with RunLock.acquire(original):
            assert copy.read_bytes() != original.read_bytes()
        assert copy.read_bytes() != b""
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_appending_breaks_a_link_first(tmp_path, link):
    """Old content is in both files, appended content in one; the mode is kept."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o640)
    link(tmp_path / "a", tmp_path / "b")

    file = AppendedFile(tmp_path / "b")
    file.write(b", new")
    file.close()

    assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "b").read_bytes() == b"old, new"
    assert not (tmp_path / "b").is_symlink()
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640
    assert not leftovers(tmp_path)


def leftovers(directory: Path) -> list[Path]:
    """Temporary files."""
    return list(directory.rglob(".tmp-*"))
