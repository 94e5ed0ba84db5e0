"""One process of a host hashes a shard, and damage is found all the same."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from llmrun.data import shard_reader as marks
from llmrun.data.shard_reader import SHARD_MARKS, offer_marks, sha256_once

CONTENT = b"tokens" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def shard(tmp_path):
    """A file that is as it should be."""
    path = tmp_path / "train-00000.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def offered(monkeypatch):
    """Marks, as the agent makes them."""
    monkeypatch.setenv(SHARD_MARKS, "")
    offer_marks()
    yield
    os.close(int(os.environ[SHARD_MARKS].rpartition("/")[2]))


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """Counts how often a file was hashed, in whatever process."""
    log = tmp_path / "log"
    log.touch()
    sha256_of = marks.sha256_of

    def counting(path):
        with log.open("a") as file:
            file.write("x")
        return sha256_of(path)

    monkeypatch.setattr(marks, "sha256_of", counting)
    return lambda: len(log.read_text())


def in_processes(count: int, work) -> list[int]:
    """Runs `work` in forked processes at once; their exit codes."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def test_one_process_hashes_for_all(shard, offered, hashed):
    """Of eight processes that need a shard at the same time one hashes it."""

    def work():
        assert sha256_once(shard, SHA256) == SHA256

    assert in_processes(8, work) == [0] * 8
    assert hashed() == 1


def test_without_marks_each_hashes(shard, monkeypatch, hashed):
    """Where there are no marks, or where they cannot be reached, everybody hashes for himself."""
    monkeypatch.delenv(SHARD_MARKS, raising=False)
    assert sha256_once(shard, SHA256) == sha256_once(shard, SHA256) == SHA256
    monkeypatch.setenv(SHARD_MARKS, "/proc/0/fd/3")
    assert sha256_once(shard, SHA256) == SHA256

    assert hashed() == 3


def test_every_process_is_told_of_damage(shard, offered, hashed):
    """A damaged shard is never marked."""
    shard.write_bytes(b"T" + CONTENT[1:])

    def work():
        assert sha256_once(shard, SHA256) != SHA256

    assert in_processes(3, work) == [0] * 3
    assert hashed() == 3


def with_old_time(path) -> None:
    """Change a file and hide it."""
    state = path.stat()
    path.write_bytes(b"T" + CONTENT[1:])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES = {
    "in place": lambda path: path.write_bytes(b"T" + CONTENT[1:]),
    "in place, with its old time": with_old_time,
    "replaced": lambda path: (
        path.with_name("new").write_bytes(b"T" + CONTENT[1:]),
        path.with_name("new").rename(path),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_after_the_check_is_found(shard, offered, change):
    """A mark is worth nothing once the file was written to or replaced."""
    os.utime(shard, (1, 1))
    assert sha256_once(shard, SHA256) == SHA256
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    change(shard)

    assert sha256_once(shard, SHA256) != SHA256


def test_another_expectation_is_not_marked(shard, offered):
    """Another dataset.json that names the same file is not answered with what it expects."""
    assert sha256_once(shard, SHA256) == SHA256
    assert sha256_once(shard, "0" * 64) == SHA256


def test_a_process_that_dies_while_it_hashes_lets_go(shard, offered, monkeypatch, hashed):
    """The next one hashes; nobody waits for ever."""

    def dying():
        monkeypatch.setattr(marks, "sha256_of", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        sha256_once(shard, SHA256)

    assert in_processes(1, dying) == [-signal.SIGKILL]
    assert sha256_once(shard, SHA256) == SHA256
    assert hashed() == 1
