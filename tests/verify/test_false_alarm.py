"""Runs that must be equal are: `verify` says so for pairs under random operational settings."""

import random
from pathlib import Path

import pytest

from llmrun.launch.torchrun import TorchrunBackend
from llmrun.verify.compare_runs import verify_runs
from warm.pool import PoolBackend, dying

GB_TOK = 512
DIVISORS = (1, 2, 4, 8)
NUMERIC = {
    "seed": [1, 2, 3],
    "precision": ["fp32", "bf16"],
    "model.dropout": [0.0, 0.1],
    "model.norm": ["rmsnorm", "layernorm"],
    "optimizer.implementation": ["fused", "foreach"],
    "schedule.name": ["cosine", "linear", "constant"],
}
OPERATIONAL = {
    "strategy": ["replicate", "shard"],
    "activation_checkpointing": ["none", "block"],
    "data.num_workers": [0, 1, 2],
    "data.verify": ["always", "never"],
    "data.order_file": ["auto", "always", "never"],
    "eval.every_steps": ["null", 1, 3],
    "eval.windows": [1, 8, 20],
    "checkpoint.every_steps": ["null", 1, 2, 3, 5],
    "checkpoint.every_minutes": ["null", 240],
    "checkpoint.keep_last": [1, 3, 9],
    "reproducibility.compare_with": ["auto", "none"],
}


class Pair:
    """Two runs of equal numbers under settings drawn from one seed, which replays them."""

    def __init__(self, driver, number: int, steps: int, D_max: int) -> None:
        self.driver, self.number, self.draw = driver, number, random.Random(f"pair {number}")
        self.steps, self.D_max = steps, D_max
        self.numeric = [f"T_tokens={steps * GB_TOK}", *self.settings(NUMERIC)]

    def settings(self, choices) -> list[str]:
        """One value for each field."""
        return [f"{key}={self.draw.choice(values)}" for key, values in choices.items()]

    def make(self, name: str, starters) -> None:
        """One of the two runs: straight, or killed in the middle and resumed at another D."""
        operational = [
            f"batch.D={self.draw.choice([D for D in DIVISORS if self.D_max >= D])}",
            *self.settings(OPERATIONAL),
        ]
        kill_at = self.draw.choice([None, *range(1, self.steps)])
        D = self.draw.randint(1, self.D_max)
        steady, killer = starters(kill_at)
        ended = self.driver.train(killer or steady, name, *self.numeric, *operational)
        if ended.end.why != "finished":
            ended = self.driver.resume(steady, name, D=D)
        assert ended.end.why == "finished", (name, operational, ended.end)

    def check(self, starters) -> None:
        """Both, and what `verify` says."""
        names = [f"pair-{self.number}-{side}" for side in "ab"]
        for name in names:
            self.make(name, starters)
        verdict = verify_runs(*(self.driver.run(name).path for name in names), strict=True)

        assert verdict.equal, (self.number, self.numeric, verdict.as_json())
        assert (verdict.steps_compared, verdict.complete, verdict.damage) == (self.steps, True, ())


@pytest.mark.parametrize(
    "number", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 100))]
)
def test_no_false_alarm(driver, server, number):
    """A hundred pairs in the warm pool, most of them with a kill and a resume at another D."""
    pair = Pair(driver, number, steps=8, D_max=8)
    pair.check(lambda kill_at: (PoolBackend(server), kill_at and dying(server, kill_at)))


class DoomedWorkers:
    """Real torchrun, killed with all its workers when `kill_at` steps are recorded."""

    def __init__(self, workers, metrics: Path, kill_at: int) -> None:
        self.workers, self.metrics, self.kill_at = workers, metrics, kill_at

    def poll(self):
        """See `Workers.poll`."""
        recorded = self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0
        if recorded >= self.kill_at:
            self.workers.kill()
        return self.workers.poll()

    def __getattr__(self, name):
        return getattr(self.workers, name)


class DoomedTorchrun(TorchrunBackend):
    """Starts workers that will be killed."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at

    def start(self, job):
        """See `ProcessBackend.start`."""
        return DoomedWorkers(super().start(job), job.run.metrics_file, self.kill_at)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 105))
def test_no_false_alarm_through_torchrun(driver, number):
    """Five pairs through real torchrun, killed and resumed by it."""
    pair = Pair(driver, number, steps=40, D_max=4)
    pair.check(lambda kill_at: (TorchrunBackend(), kill_at and DoomedTorchrun(kill_at)))
