"""The run that is replayed: its ledger, its record, and where its steps can be started from."""

from dataclasses import dataclass, field
from pathlib import Path

from llmrun.checkpoint.layout import step_name
from llmrun.checkpoint.reader import Checkpoint, newest_sound
from llmrun.checkpoint.recorded_state import compare_with_record
from llmrun.errors import InputError
from llmrun.launch.ground import Ground, ground_for
from llmrun.launch.recorded import Stretch, stretches_of
from llmrun.launch.starter import Starter
from llmrun.ledger.reader import LedgerReader
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.verify.subject import Subject, open_subject


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

    subject: Subject
    ledger: LedgerReader
    record: RunRecord
    last_step: int
    broken_step: int | None
    stretches: list[Stretch]
    damage: list[str] = field(default_factory=list)
    _starts: dict[int, StartState] = field(default_factory=dict)
    _grounds: dict[tuple[int, int | None], Ground] = field(default_factory=dict)

    @property
    def run(self) -> RunDirectory:
        """Its directory."""
        return RunDirectory(self.subject.path)

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
        steps = sorted(step for step in self.subject.checkpoints if after < step <= last)
        return [self.run.checkpoints / step_name(step) for step in steps]

    def stretch_of(self, step: int) -> Stretch:
        """The stretch that made `step`."""
        return next(stretch for stretch in self.stretches if stretch.from_step < step <= stretch.to_step)

    def ground(self, step: int, starter: Starter, D: int | None, data: Path | None) -> Ground:
        """What `step` can be executed with here.  Raises InputError, RefusedError, DamagedError."""
        segment = self.stretch_of(step).segment
        key = (segment.segment, D)
        if key not in self._grounds:
            self._grounds[key] = ground_for(self.run, self.record, segment, starter, D, data)
        return self._grounds[key]


def open_audited(path: Path, label: str = "A") -> Audited:
    """Open a run for a replay.  Raises InputError where `path` is none, or no step of it was recorded."""
    subject = open_subject(label, path)
    if subject.record is None or subject.ledger is None:
        raise InputError(
            f"{path} is no run: only a run can be executed again",
            hints=["give two paths to compare them: `llmrun verify A B`"],
        )
    ledger = subject.ledger
    broken = ledger.verify_chain()
    last_step = ledger.last_step if broken is None else broken - 1
    if last_step < 1:
        raise InputError(f"nothing to execute again: no step of {path} is on record")
    return Audited(
        subject, ledger, subject.record, last_step, broken, stretches_of(subject.record, last_step)
    )
