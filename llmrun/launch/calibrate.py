"""Times a few real steps of a config on this machine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from llmrun.config.resolve import Resolved
from llmrun.errors import InputError
from llmrun.lanes import cost_of
from llmrun.launch.devices import UsableGpus, usable_gpus
from llmrun.launch.energy import EnergyMeter
from llmrun.launch.first_cause import first_cause
from llmrun.launch.starter import Starter, Workers
from llmrun.launch.trial import SEGMENT, trial, trial_config, usable_data
from llmrun.machine import cpus_usable, device_name
from llmrun.metrics.jsonl import Row
from llmrun.metrics.names import STEP_SECONDS
from llmrun.metrics.tail import Tail
from llmrun.plan.calibration import Timed, trial_size
from llmrun.run.directory import RunDirectory
from llmrun.run.orders import Outcome

WARM_UP_STEPS = 2
"""The first step allocates, the second still meets cold caches."""
STEPS_LEAST, STEPS_MOST = 5, 60
ENOUGH_S = 15.0
"""Seconds of timed steps after which STEPS_LEAST are enough."""
PATIENCE_S = 180.0
"""After so long, whatever was timed must do."""
POLL_S = 0.05
STEPS_OF_A_TRIAL = 10_000
"""More than any trial lives to see: its last step would save a checkpoint."""


@dataclass
class Stopwatch:
    """Takes in the rows of a trial until it has seen enough.  clock: seconds, monotonic."""

    clock: Callable[[], float] = time.monotonic
    step_s: list[float] = field(default_factory=list)
    _seen: int = 0
    _begun_s: float | None = None

    def add(self, row: Row) -> bool:
        """Take in one step; returns whether timed steps begin after it."""
        self._begun_s = self.clock() if self._begun_s is None else self._begun_s
        self._seen += 1
        if self._seen > WARM_UP_STEPS:
            self.step_s.append(float(row[STEP_SECONDS]))
        return self._seen == WARM_UP_STEPS

    @property
    def is_done(self) -> bool:
        """Enough steps, or enough time."""
        n, passed_s = len(self.step_s), 0.0 if self._begun_s is None else self.clock() - self._begun_s
        return (
            n >= STEPS_MOST
            or (n >= STEPS_LEAST and sum(self.step_s) >= ENOUGH_S)
            or (n > 0 and passed_s > PATIENCE_S)
        )


def calibrate(resolved: Resolved, starter: Starter, check: Callable[[], None]) -> Timed:
    """Train a few steps of this config here, in a temporary directory, and time them.

    Where the machine has fewer devices than D ranks, fewer ranks do the same work each.
    check: called several times a second; what it raises ends the trial.
    Raises InputError where the config's device is not here; what stopped the workers where they fail.
    """
    device = resolved.config.hardware.device
    size = trial_size(resolved.batch, devices_here(resolved))
    config = trial_config(resolved, gb_tok=size.gb_tok, V=size.V, D=size.D, steps=STEPS_OF_A_TRIAL)
    watch = Stopwatch()
    meter: EnergyMeter | None = None
    energy_J: float | None = None
    with trial(config, usable_data(resolved), starter) as (run, workers):
        for row in rows_of(run, workers, size.D, check):
            if watch.add(row):
                meter = EnergyMeter(device, size.D)
            if watch.is_done:
                energy_J = None if meter is None else meter.joules()
                break
    lanes = max(cost_of(size.V, size.D).lanes_per_rank)
    micro_batches = lanes * config.batch.micro_batches_per_lane
    return Timed(tuple(watch.step_s), size.D, micro_batches, energy_J, device_name(device))


def devices_here(resolved: Resolved) -> int:
    """How many ranks this machine can give a device each.  Raises InputError where it has none of the kind."""
    hardware = resolved.config.hardware
    wants_gpu = hardware.device == "cuda" or hardware.accelerator is not None
    usable = usable_gpus() if wants_gpu else UsableGpus(0)
    gpus = usable.count
    if wants_gpu and not gpus:
        raise InputError(
            "there is no GPU here to time this config on",
            where="hardware.accelerator" if hardware.accelerator else "hardware.device",
            caused_by=[] if usable.problem is None else [usable.problem],
            hints=["run `llmrun plan --calibrate` on a machine that has one; without it the MFU is assumed"],
        )
    return gpus if hardware.device == "cuda" else max(1, cpus_usable() // hardware.threads_per_rank)


def rows_of(run: RunDirectory, workers: Workers, D: int, check: Callable[[], None]) -> Iterator[Row]:
    """The rows of a trial as they come.  Raises the first cause where its workers end."""
    tail = Tail(run.metrics_file)
    while True:
        check()
        exit_code = workers.poll()
        yield from tail.new_rows()
        if exit_code is not None:
            files = [run.outcome_file(SEGMENT, rank) for rank in range(D)]
            outcomes = [Outcome.read(file) for file in files if file.exists()]
            raise first_cause(run, SEGMENT, outcomes, exit_code)
        time.sleep(POLL_S)
