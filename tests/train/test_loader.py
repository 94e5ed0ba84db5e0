"""Loader workers: what they fetch, and what signals and deaths do to them."""

import json
import os
import signal

import pytest
import torch

from llmrun.core.batch import Batch
from llmrun.core.loader import Loader, MicroBatches
from llmrun.core.order import Order
from llmrun.data.manifest import read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.errors import EXIT_BUG
from llmrun.run.signals import WORKER_STOP_SIGNALS
from llmrun.runtime.session import LoaderWorkerStart
from llmrun.runtime.worker import as_known

BATCH = Batch(gb_tok=512, mu_tok=64, L_ctx=32, V=8, D=1, T_tokens=8192, warmup_tokens=0)


class Disturbed(MicroBatches):
    """Micro-batches whose loader worker does something else at step 3."""

    disturbance = staticmethod(lambda: None)

    def tokens(self, step: int, number: int):
        """Disturbed."""
        if step == 3:
            self.disturbance()
        return super().tokens(step, number)


@pytest.fixture
def batches(dataset):
    """The micro-batches of a small run."""
    split = open_split(dataset, read_manifest(dataset), "train", BATCH.L_ctx, verify=True)
    return Disturbed(split, Order(42, split.n_windows), BATCH)


def keys() -> list[tuple[int, int]]:
    """Every micro-batch of the run, in order."""
    return [(step, number) for step in range(BATCH.steps) for number in range(BATCH.M)]


def loader_of(batches) -> Loader:
    """A loader with one worker."""
    start = LoaderWorkerStart(os.getpid())
    return Loader(
        batches,
        BATCH,
        0,
        range(BATCH.V),
        range(BATCH.steps),
        seed=42,
        num_workers=1,
        on_worker_start=start,
    )


def test_signals_to_the_whole_process_tree_leave_the_data_alone(batches):
    """After every stop signal a loader worker still fetches the right micro-batches, to the last one."""
    loader = loader_of(batches)
    found = []
    for step, number in keys():
        found.append(loader.next(step, number).tokens)
        if len(found) == 4:
            for signalled in WORKER_STOP_SIGNALS:
                os.kill(loader._items._workers[0].pid, signalled)
    loader._items._shutdown_workers()

    assert all(torch.equal(tokens, batches.tokens(*key)) for tokens, key in zip(found, keys(), strict=True))


def error_of_a_rank(batches) -> dict:
    """The error, as JSON, of a process that reads all micro-batches; its loader worker dies with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            loader = loader_of(batches)
            for key in keys():
                loader.next(*key)
        except Exception as error:  # noqa: BLE001  as the worker does
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.write(writing, json.dumps(as_known(error).as_json()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as pipe:
        return json.loads(pipe.read())


DEATHS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "left": lambda: os._exit(3),
    "left in peace": lambda: os._exit(0),
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_lost_loader_worker_is_named(batches, death):
    """However a worker ended, the run failed with exit code 4."""
    batches.disturbance = death
    found = error_of_a_rank(batches)

    assert found["exit_code"] == 4
    assert "loader worker" in found["message"]


def test_a_bug_in_a_loader_worker_is_a_bug(batches):
    """An error that a worker raises is reported as such, not as a lost worker."""
    batches.disturbance = lambda: 1 // 0
    found = error_of_a_rank(batches)

    assert "ZeroDivisionError" in found["message"]
    assert found["exit_code"] == EXIT_BUG
