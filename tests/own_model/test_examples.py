"""The models of examples/own-model train, are killed, resume on another D with another strategy, and verify equal."""

from pathlib import Path

import pytest

from warm.bits import assert_equal_runs
from warm.pool import dying

EXAMPLES = Path(__file__).parents[2] / "examples" / "own-model"
STEPS = 6
SMALL = (
    "T_tokens=3Ki",
    "batch.GB_tok=512",
    "batch.μ_tok=64",
    "batch.L_ctx=32",
    "model.args.width=32",
    "model.args.layers=2",
    "schedule.warmup_tokens=0",
    "eval.every_steps=3",
    "eval.windows=8",
    "checkpoint.every_steps=3",
    "checkpoint.keep_best=false",
    "data.num_workers=0",
    "hardware.device=cpu",
    "reproducibility.compare_with=none",
)


def names() -> list[str]:
    """The examples, by the names of their configs."""
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def test_there_are_examples():
    """The four classes of transformers and the minimal model each have a config."""
    assert set(names()) >= {"gpt2", "llama", "qwen3", "mamba", "minimal"}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_an_example_keeps_the_promise(name, driver, dataset, pool, server):
    """Uninterrupted at D = 1 equals killed at D = 2 with `shard` and recomputed blocks and resumed at D = 1."""
    driver.config = EXAMPLES / f"{name}.yaml"
    overrides = [*SMALL, f"data.path={dataset}"]
    assert driver.train(pool, "straight", *overrides, "batch.D=1").end.why == "finished"
    other = ("batch.D=2", "strategy=shard", "activation_checkpointing=block")
    killed = driver.train(dying(server, 4), "killed", *overrides, *other)
    assert killed.end.why != "finished"
    assert driver.resume(pool, "killed", D=1).end.why == "finished"
    assert_equal_runs(driver.run("straight"), driver.run("killed"), STEPS)
