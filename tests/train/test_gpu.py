"""The same promises on a CUDA device.  Run by `make gpu`; skipped without one."""

import pytest

from llmrun.launch.torchrun import TorchrunBackend
from llmrun.machine import visible_gpus
from warm.bits import assert_equal_runs
from warm.driver import STEPS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(len(visible_gpus()) == 0, reason="there is no CUDA device")]

CUDA = "hardware.device=cuda"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_and_resumed_equals_straight_on_gpu(driver, precision):
    """Dropout, loader workers, recomputed blocks: stopping and resuming changes no bit on a GPU."""
    backend = TorchrunBackend()
    driver.train(backend, "straight", CUDA, f"precision={precision}")
    driver.train(backend, "stopped", CUDA, f"precision={precision}", "data.num_workers=2", until=6)
    driver.resume(backend, "stopped", "activation_checkpointing=block")
    assert_equal_runs(driver.run("straight"), driver.run("stopped"), STEPS)


@pytest.mark.skipif(len(visible_gpus()) < 2, reason="there are fewer than two CUDA devices")
@pytest.mark.parametrize("strategy", ["replicate", "shard"])
def test_two_gpus_have_the_bits_of_one(driver, strategy):
    """NCCL only moves bytes: D = 2 equals D = 1."""
    backend = TorchrunBackend()
    driver.train(backend, "one", CUDA)
    driver.train(backend, "two", CUDA, "batch.D=2", f"strategy={strategy}")
    assert_equal_runs(driver.run("one"), driver.run("two"), STEPS)
