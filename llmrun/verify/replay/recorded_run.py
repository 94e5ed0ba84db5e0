"""The run that is replayed: its ledger, its record, and what its steps can be executed with here and now."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.config.dump import numeric_fields
from llmrun.config.resolve import Resolved, resolve_for_D, resolved_of
from llmrun.config.schema import Config
from llmrun.data.manifest import fingerprint_of, read_manifest
from llmrun.errors import InputError, Place, RefusedError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.torchrun import ProcessBackend, worker_environment
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.variables import with_recorded_variables
from llmrun.run.directory import RunDirectory
from llmrun.run.history import Stretch, recorded_config, recorded_fingerprint, stretches_of
from llmrun.run.record import RunRecord, Segment
from llmrun.run.recorded_state import compare_with_record
from llmrun.run.settings import dataset_places
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import newest_sound
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.verify.operands import Operand, open_subject


@dataclass(frozen=True)
class ReplayEnvironment:
    """What steps of one segment are executed with, here and now.

    resolved:    the recorded config for the ranks of the replay.
    environment: variables of the workers: those that may change bits are as they were recorded.
    recorded:    the fingerprint that the steps were made under.  here: the one they are executed under.
    """

    resolved: Resolved
    data_path: Path
    environment: Mapping[str, str]
    recorded: Fingerprint
    here: Fingerprint


def ground_for(
    run: RunDirectory,
    record: RunRecord,
    segment: Segment,
    backend: ProcessBackend,
    D: int | None = None,
    data: Path | None = None,
) -> ReplayEnvironment:
    """What the steps of a segment can be executed with here.

    D: ranks; None takes the segment's, on GPUs no more than there are.
    data: the dataset's directory; None looks where the run had it.
    Raises InputError, RefusedError where it cannot be, DamagedError where run.json does not hold.
    """
    recorded = recorded_fingerprint(run, record, segment)
    config = recorded_config(run, record, segment)
    if config.reproducibility.mode != "bitwise":
        raise RefusedError(
            f"{run.name} was trained in mode {config.reproducibility.mode}: its bits were never promised",
            hints=["`llmrun verify --statistical` compares such runs"],
        )
    resolved = resolved_for(run, config, segment.D, D)
    data_path = dataset_of(run, record, data)
    manifest = read_manifest(data_path)
    variables = recorded.preimages["environment"].get("variables", {})
    base = with_recorded_variables(os.environ, variables)
    environment = worker_environment(base, config.hardware.threads_per_rank, resolved.batch.D)
    probe = backend.probe(config.hardware.device, environment, lambda: None)
    here = Fingerprint(
        {
            "config": numeric_fields(config),
            "data": fingerprint_of(manifest),
            "code": code_preimage(probe.source_files),
            "environment": dict(probe.environment),
        }
    )
    return ReplayEnvironment(resolved, data_path, environment, recorded, here)


def resolved_for(run: RunDirectory, config: Config, recorded_D: int, wished_D: int | None) -> Resolved:
    """The config for the ranks of a replay.  Raises InputError, RefusedError."""
    on_gpus = config.hardware.device == "cuda"
    usable = usable_gpus() if on_gpus else UsableGpus(0)
    refuse_unusable(config.hardware.device, usable)
    gpus = usable.count
    if on_gpus and gpus == 0:
        raise RefusedError(
            f"{run.name} was trained on GPUs, and this machine shows none",
            hints=["replay it on a machine with the same GPU model: other devices give other bits"],
        )
    D = wished_D or (min(recorded_D, gpus) if on_gpus else recorded_D)
    if on_gpus and gpus < D:
        raise InputError(f"D = {D} ranks need {D} GPUs, this machine shows {gpus}", where=Place(option="--D"))
    return resolve_for_D(resolved_of(config, recorded_D), D)


def dataset_of(run: RunDirectory, record: RunRecord, given: Path | None) -> Path:
    """Where the run's dataset lies.  Raises InputError."""
    places = [given] if given is not None else dataset_places(run, record)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise InputError(
            f"the dataset of {run.name} is not where it was",
            caused_by=[f"there is no {place}" for place in dict.fromkeys(places)],
            hints=["`--data DIR` says where it lies now"],
        )
    return found.resolve()


@dataclass(frozen=True)
class StartState:
    """The state that a replay starts from.

    checkpoint: None is the initial state, made anew from the seed.
    unequal:    in what the checkpoint is not the state that the ledger recorded; empty where it is.
    """

    checkpoint: Checkpoint | None
    unequal: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Finished steps."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def path(self) -> Path | None:
        """The checkpoint's directory."""
        return None if self.checkpoint is None else self.checkpoint.path


@dataclass
class Audited:
    """One run, read only.

    last_step:   the last step whose record holds.  broken_step: the first one whose record does not.
    damage:      what is wrong with checkpoints that were looked at, in words.
    """

    operand: Operand
    ledger: LedgerReader
    record: RunRecord
    last_step: int
    broken_step: int | None
    stretches: list[Stretch]
    damage: list[str] = field(default_factory=list)
    _starts: dict[int, StartState] = field(default_factory=dict)
    _grounds: dict[tuple[int, int | None], ReplayEnvironment] = field(default_factory=dict)

    @property
    def run(self) -> RunDirectory:
        """Its directory."""
        return RunDirectory(self.operand.path)

    def start_at_or_before(self, step: int) -> StartState:
        """The newest sound checkpoint at or before `step`; else the initial state."""
        known = [start for at, start in self._starts.items() if start.step <= step <= at]
        if known:
            return known[0]
        checkpoint, damages = newest_sound(self.run.checkpoints, step_max=step)
        self.damage += [line for damage in damages if (line := f"checkpoint {damage}") not in self.damage]
        if checkpoint is None:
            start = StartState(None)
        else:
            start = StartState(
                checkpoint, tuple(compare_with_record(checkpoint, self.ledger.record(checkpoint.step)))
            )
        self._starts[step] = start
        return start

    def checkpoints_within(self, after: int, last: int) -> list[Path]:
        """The checkpoints of the steps from `after` + 1 to `last`, ascending."""
        steps = sorted(step for step in self.operand.checkpoints if after < step <= last)
        return [self.run.checkpoints / step_name(step) for step in steps]

    def stretch_of(self, step: int) -> Stretch:
        """The stretch that made `step`."""
        return next(stretch for stretch in self.stretches if stretch.from_step < step <= stretch.to_step)

    def replay_environment(
        self, step: int, backend: ProcessBackend, D: int | None, data: Path | None
    ) -> ReplayEnvironment:
        """What `step` can be executed with here.  Raises InputError, RefusedError, DamagedError."""
        segment = self.stretch_of(step).segment
        key = (segment.segment, D)
        if key not in self._grounds:
            self._grounds[key] = ground_for(self.run, self.record, segment, backend, D, data)
        return self._grounds[key]


def open_audited(path: Path, label: str = "A") -> Audited:
    """Open a run for a replay.  Raises InputError where `path` is none, or no step of it was recorded."""
    operand = open_subject(label, path)
    if operand.record is None or operand.ledger is None:
        raise InputError(
            f"{path} is no run: only a run can be executed again",
            hints=["give two paths to compare them: `llmrun verify A B`"],
        )
    ledger = operand.ledger
    broken = ledger.verify_chain()
    last_step = ledger.last_step if broken is None else broken - 1
    if last_step < 1:
        raise InputError(f"nothing to execute again: no step of {path} is on record")
    return Audited(
        operand, ledger, operand.record, last_step, broken, stretches_of(operand.record, last_step)
    )
