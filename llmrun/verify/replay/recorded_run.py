"""The run that is replayed: its ledger, its record, and what its steps can be executed with here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.config.resolve import Resolved, resolve_for_D, resolved_of
from llmrun.config.schema import Config
from llmrun.data.location import locate_dataset
from llmrun.data.manifest import read_manifest
from llmrun.errors import InputError, Place, RefusedError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.model_facts import model_variable
from llmrun.launch.preflight import assemble_fingerprint
from llmrun.launch.torchrun import ProcessBackend, worker_environment
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.variables import with_recorded_variables
from llmrun.run.directory import RunDirectory
from llmrun.run.history import StepRange, dataset_paths, recorded_config, recorded_fingerprint, step_ranges
from llmrun.run.origin import origin_of
from llmrun.run.record import RunRecord, Segment
from llmrun.run.record_check import compare_with_origin, compare_with_record
from llmrun.storage.checkpoint.layout import step_name
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import newest_sound
from llmrun.storage.ledger.reader import LedgerReader
from llmrun.verify.operands import Operand, open_operand


@dataclass(frozen=True)
class ReplayEnvironment:
    """What steps of one segment are executed with here.

    resolved:  the recorded config for the ranks of the replay.
    variables: environment variables of the workers; those that may change bits are as they were recorded.
    recorded:  the fingerprint under which the run made the steps.  here: the one under which they are executed.
    """

    resolved: Resolved
    data_path: Path
    variables: Mapping[str, str]
    recorded: Fingerprint
    here: Fingerprint


def replay_environment_for(
    run: RunDirectory,
    record: RunRecord,
    segment: Segment,
    backend: ProcessBackend,
    D: int | None = None,
    data: Path | None = None,
) -> ReplayEnvironment:
    """What the steps of a segment can be executed with here.

    D: ranks; None takes the segment's number, on GPUs at most as many as there are.
    data: the dataset's directory; None looks where the run had it.
    Raises InputError or RefusedError if they cannot be executed, DamagedError if run.json contradicts itself.
    """
    recorded = recorded_fingerprint(run, record, segment)
    config = recorded_config(run, record, segment)
    if config.reproducibility.mode != "bitwise":
        raise RefusedError(
            f"cannot replay {run.name}: reproducibility.mode must be bitwise, got {config.reproducibility.mode}",
            hints=["`llmrun equivalence --baseline RUNS --candidate RUNS` compares such runs"],
        )
    resolved = resolved_for(run, config, segment.D, D)
    data_path = dataset_of(run, record, data)
    manifest = read_manifest(data_path)
    own = os.environ | model_variable(resolved.config)
    base = with_recorded_variables(own, recorded.preimages["environment"].get("variables", {}))
    variables = worker_environment(base, config.hardware.threads_per_rank, resolved.batch.D)
    probe = backend.probe(config.hardware.device, variables, lambda: None)
    here = assemble_fingerprint(config, manifest, probe, origin_of(run))
    return ReplayEnvironment(resolved, data_path, variables, recorded, here)


def resolved_for(run: RunDirectory, config: Config, recorded_D: int, requested_D: int | None) -> Resolved:
    """The config for the ranks of a replay.  Raises InputError, RefusedError."""
    on_gpus = config.hardware.device == "cuda"
    usable = usable_gpus() if on_gpus else UsableGpus(0)
    refuse_unusable(config.hardware.device, usable)
    gpus = usable.count
    if on_gpus and gpus == 0:
        raise RefusedError(
            f"cannot replay {run.name}: it was trained on GPUs, and this machine has none",
            hints=["replay it on a machine with the same GPU model: other devices give other bits"],
        )
    D = requested_D or (min(recorded_D, gpus) if on_gpus else recorded_D)
    if on_gpus and gpus < D:
        raise InputError(
            f"--D must be at most {gpus}, the number of GPUs of this machine, got {D}",
            where=Place(option="--D"),
        )
    return resolve_for_D(resolved_of(config, recorded_D), D)


def dataset_of(run: RunDirectory, record: RunRecord, given: Path | None) -> Path:
    """The directory of the run's dataset.  Raises InputError if it does not exist."""
    return locate_dataset(
        [given] if given is not None else dataset_paths(run, record),
        f"cannot find the dataset of {run.name}",
        hints=["`--data DIR` names its directory"],
    )


@dataclass(frozen=True)
class StartState:
    """The state that a replay starts from.

    checkpoint: None is the initial state, made from the seed.
    unequal:    what of the checkpoint is not as the ledger recorded it: some of tokens, weights, optimizer, chain.
    """

    checkpoint: Checkpoint | None
    unequal: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def path(self) -> Path | None:
        """The checkpoint's directory; None for the initial state."""
        return None if self.checkpoint is None else self.checkpoint.path


@dataclass
class RecordedRun:
    """A run, opened for reading.

    last_step:   the last step whose record holds.  broken_step: the first one whose record does not.
    spans:       the steps by fingerprint.
    damage:      one line for each damaged checkpoint that was tried.
    """

    operand: Operand
    ledger: LedgerReader
    record: RunRecord
    last_step: int
    broken_step: int | None
    spans: list[StepRange]
    damage: list[str] = field(default_factory=list)
    _starts: dict[int, StartState] = field(default_factory=dict)
    _environments: dict[tuple[int, int | None], ReplayEnvironment] = field(default_factory=dict)

    @property
    def run(self) -> RunDirectory:
        """The run's directory."""
        return RunDirectory(self.operand.path)

    @property
    def step_before_first(self) -> int:
        """The step before the first one that the run made: that of the origin of a migrated run, else 0."""
        return max(self.ledger.first_step - 1, 0)

    def start_at_or_before(self, step: int) -> StartState:
        """The newest sound checkpoint at or before `step`; else the initial state.

        Raises InputError for a migrated run without such a checkpoint: its initial state cannot be made from the seed.
        """
        known = [start for at, start in self._starts.items() if start.step <= step <= at]
        if known:
            return known[0]
        checkpoint, damages = newest_sound(self.run.checkpoints, step_max=step)
        self.damage += [line for damage in damages if (line := f"checkpoint {damage}") not in self.damage]
        start = StartState(None) if checkpoint is None else StartState(checkpoint, self._unequal(checkpoint))
        if checkpoint is None and self.step_before_first:
            raise InputError(
                f"cannot replay {self.run.name} from before step {step + 1:,}: it begins at step "
                f"{self.step_before_first:,} with a migrated state, and no sound checkpoint is left up to there",
                where=str(self.run.checkpoints),
                caused_by=self.damage,
                hints=[
                    "`llmrun migrate` makes that state again, and `--from STEP` starts at a later checkpoint"
                ],
            )
        self._starts[step] = start
        return start

    def _unequal(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The quantities in which a checkpoint differs from what the run recorded of its step."""
        if checkpoint.step in self.ledger.steps:
            return tuple(compare_with_record(checkpoint, self.ledger.record(checkpoint.step)))
        origin = origin_of(self.run)
        # A ledger begins after its origin, so an earlier checkpoint is no state of this run.
        if origin is None or checkpoint.step != origin.step:
            return ("chain",)
        return tuple(compare_with_origin(checkpoint, origin))

    def checkpoints_within(self, after: int, last: int) -> list[Path]:
        """The paths of the checkpoints of steps `after` + 1 to `last`, ascending."""
        steps = sorted(step for step in self.operand.checkpoints if after < step <= last)
        return [self.run.checkpoints / step_name(step) for step in steps]

    def check_step_after(self, step: int) -> None:
        """Raises InputError if the ledger holds no sound record of the step after `step`."""
        if step < self.step_before_first:
            raise InputError(
                f"--from must be at least {self.step_before_first:,}, got {step:,}: {self.run.name} begins there with a "
                "migrated state",
                where=Place(option="--from"),
            )
        if step >= self.last_step:
            held = "holds" if self.broken_step is None else "is sound"
            raise InputError(
                f"--from must be less than {self.last_step:,}, got {step:,}: the ledger of {self.run.name} {held} up to "
                f"step {self.last_step:,}",
                where=Place(option="--from"),
            )

    def span_of(self, step: int) -> StepRange:
        """The span that holds `step`."""
        return next(span for span in self.spans if span.from_step < step <= span.to_step)

    def replay_environment(
        self, step: int, backend: ProcessBackend, D: int | None, data: Path | None
    ) -> ReplayEnvironment:
        """What `step` can be executed with here.  Raises as `replay_environment_for` does."""
        segment = self.span_of(step).segment
        key = (segment.segment, D)
        if key not in self._environments:
            self._environments[key] = replay_environment_for(self.run, self.record, segment, backend, D, data)
        return self._environments[key]


def open_recorded_run(path: Path, label: str = "A") -> RecordedRun:
    """Open a run for a replay.  Raises InputError if `path` is not a run, or no step of it was recorded."""
    operand = open_operand(label, path)
    if operand.record is None or operand.ledger is None:
        raise InputError(
            f"{path} must be a run: only the steps of a run can be executed again",
            hints=["`llmrun verify A B` compares two ledgers or checkpoints"],
        )
    ledger = operand.ledger
    broken = ledger.verify_chain()
    last_step = ledger.last_step if broken is None else broken - 1
    if last_step < max(ledger.first_step, 1):
        raise InputError(f"cannot replay {path}: no step was recorded")
    return RecordedRun(
        operand, ledger, operand.record, last_step, broken, step_ranges(operand.record, last_step)
    )
