"""Strategy `shard` (FSDP2) has the bits of `replicate`, at every D."""

import pytest

from llmrun.errors import RunFailedError
from llmrun.storage.ledger.reader import LedgerReader
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.pool import PoolBackend, dying

SHARD = "strategy=shard"


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_shard_equals_replicate(driver, server, precision):
    """D = 2, 4 sharded from the start, with one micro-batch a lane; uneven D by resuming."""
    pool = PoolBackend(server)
    setting = f"precision={precision}"
    driver.train(pool, "one", setting)
    driver.train(pool, "two", setting, SHARD, "batch.D=2", "data.num_workers=2")
    assert_equal_runs(driver.run("one"), driver.run("two"), STEPS)
    driver.train(pool, "walk", setting, SHARD, "batch.D=4", until=4)
    driver.resume(pool, "walk", D=3, until=9)
    driver.resume(pool, "walk", D=7)
    assert_equal_runs(driver.run("one"), driver.run("walk"), STEPS)


SETTINGS = [
    ["batch.V=4", "activation_checkpointing=block"],
    [
        "batch.V=2",
        "model.tie_embeddings=false",
        "model.position=learned",
        "model.bias=true",
        "model.norm=layernorm",
    ],
    ["batch.V=4", "optimizer.implementation=foreach", "optimizer.grad_clip=0.1"],
]


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param(sets, id=sets[-1], marks=() if number == 1 else pytest.mark.slow)
        for number, sets in enumerate(SETTINGS)
    ],
)
def test_several_micro_batches_a_lane(driver, server, sets):
    """Gradients added within a lane, recomputed blocks, other parameters: the same bits; killed on the way."""
    pool = PoolBackend(server)
    driver.train(pool, "one", *sets)
    driver.train(dying(server, 7), "sharded", *sets, SHARD, "batch.D=2")
    driver.resume(pool, "sharded", "strategy=replicate", D=1, until=8)
    driver.resume(pool, "sharded", SHARD, D=2)
    assert_equal_runs(driver.run("one"), driver.run("sharded"), STEPS)


def test_non_finite_loss_is_named(driver, server):
    """A non-finite loss stops all ranks before the update, with step and micro-batch."""
    ended = driver.train(PoolBackend(server, "poison", step=3, number=5), "poisoned", SHARD, "batch.D=2")
    error = ended.error(driver.run("poisoned"))
    assert isinstance(error, RunFailedError)
    assert error.message.startswith("the loss of step 3 ")
    assert "micro-batch 5 " in error.message


@pytest.mark.parametrize("strategy", ["replicate", "shard"])
def test_statistical_mode_learns_the_same(driver, server, strategy):
    """Native reductions: the same samples, nearly the same losses, a ledger and checkpoints; it resumes."""
    pool = PoolBackend(server)
    sets = ["reproducibility.mode=statistical", f"strategy={strategy}", "batch.D=2", "precision=fp32"]
    driver.train(pool, "bitwise", "precision=fp32")
    driver.train(pool, "fast", *sets, until=8)
    ended = driver.resume(pool, "fast")
    assert ended.end.why == "finished"
    exact, fast = (LedgerReader(driver.run(name).ledger_file) for name in ("bitwise", "fast"))
    for step in range(1, STEPS + 1):
        a, b = exact.record(step), fast.record(step)
        assert a.tokens_digest == b.tokens_digest
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
