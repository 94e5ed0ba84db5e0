"""Where seeded faults are tried: a warm pool, a dataset, and undisturbed runs to compare with."""

import copy
import os
import shutil
from pathlib import Path

from llmrun.run.directory import RunDirectory
from llmrun.verify.compare_runs import verify_runs
from llmrun.verify.report import Verdict
from warm.driver import Driver, make_dataset
from warm.pool import PoolBackend, Server, dying

SETTINGS = ("checkpoint.keep_last=9",)
LONG = ("T_tokens=52Ki", "checkpoint.every_steps=null", "eval.every_steps=null")
LONG_STEPS = 100


class Bench:
    """Trains runs below one directory, which is the working directory meanwhile."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory, self.server = directory, server
        self._driver = Driver(directory, make_dataset(directory))

    def train_until(
        self, until: int | None, name: str, *overrides: str, mutation: str | None = None, **arguments
    ) -> Path:
        """A run up to a step (None: to its end), whose worker is changed by a function of tests/warm/mutations.py."""
        backend = PoolBackend(self.server, mutation, **arguments)
        ended = self._driver.train(backend, name, *SETTINGS, *overrides, until=until)
        assert ended.error(self._driver.run(name)) is None
        return self._driver.run(name).path

    def resume(self, name: str, mutation: str | None = None, **arguments) -> Path:
        """The rest of a run that stopped."""
        ended = self._driver.resume(PoolBackend(self.server, mutation, **arguments), name)
        assert ended.error(self._driver.run(name)) is None
        return self._driver.run(name).path

    def straight(self) -> Path:
        """The undisturbed run of 16 steps, trained once."""
        return self._once("straight", None)

    def long(self) -> Path:
        """The undisturbed run of 100 steps."""
        return self._once("long", LONG_STEPS, *LONG)

    def other(self) -> Path:
        """A sound run of other numbers."""
        return self._once("other", None, "optimizer.betas=[0.9,0.99]")

    def kill(self, name: str, after: int) -> Path:
        """A run whose ranks are killed when `after` steps are recorded."""
        self._driver.train(dying(self.server, after), name, *SETTINGS)
        return self._driver.run(name).path

    def on(self, server: Server) -> "Bench":
        """The same place with other workers."""
        bench = copy.copy(self)
        bench.server = server
        return bench

    def copy(self, run: Path, name: str) -> Path:
        """A copy of a run, to be damaged."""
        path = self._driver.run(name).path
        shutil.copytree(run, path)
        return path

    def copy_of_data(self, name: str) -> Path:
        """A copy of the dataset, to be damaged."""
        return Path(shutil.copytree(self.directory / "data", self.directory / name))

    def verify(self, a: Path, b: Path) -> Verdict:
        """What `llmrun verify` finds."""
        return verify_runs(a, b)

    def _once(self, name: str, until: int | None, *overrides: str) -> Path:
        run = RunDirectory(self._driver.run(name).path)
        return run.path if run.is_run else self.train_until(until, name, *overrides)


class other_instruction_set:  # noqa: N801  reads as a statement
    """A server whose kernels use torch's portable code, and not what the CPU has."""

    def __enter__(self) -> Server:
        self._before = os.environ.get("ATEN_CPU_CAPABILITY")
        os.environ["ATEN_CPU_CAPABILITY"] = "default"
        self._server = Server()
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.close()
        del os.environ["ATEN_CPU_CAPABILITY"]
        if self._before is not None:
            os.environ["ATEN_CPU_CAPABILITY"] = self._before
