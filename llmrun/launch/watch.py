"""Watches the workers of one segment until they have all ended, and says how.

Outcomes decide, never an exit code: a process may crash after its work is done and reported.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrun.cgroups import oom_kills
from llmrun.errors import LlmrunError, RunFailedError
from llmrun.launch.failure_report import first_cause
from llmrun.launch.torchrun import Workers
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.record import Ending
from llmrun.run.signals import LauncherStopRequest
from llmrun.run.warnings import WarningsTail
from llmrun.run.worker_spec import Outcome, read_outcomes
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.durable import replace_text
from llmrun.storage.metrics.jsonl import Row, Tail
from llmrun.text import command

POLL_S = 0.1
CHECKPOINTS_EVERY_S = 1.0
LEAVE_WITHIN_S = 20.0
"""After the last outcome, and after the first failure, processes have this long to end by themselves."""


@dataclass(frozen=True)
class SegmentEnd:
    """How a segment ended.

    why:          as in run.json.
    proven_steps: recomputed steps that were equal to an earlier ledger.
    error:        what failed; where why is `finished` or `reached`, only run.json could not be written.
    remarks:      sentences of the ranks that did not stop the run.
    at_once:      the second stop signal, where one came.
    """

    why: Ending
    proven_steps: int = 0
    error: LlmrunError | None = None
    at_once: int | None = None
    remarks: tuple[str, ...] = ()


class SegmentObserver(Protocol):
    """Told what happens while workers run.  One that raises is not told any more; the run goes on."""

    def rows(self, rows: Sequence[Row]) -> None:
        """New objects of metrics.jsonl, of this segment only."""
        ...

    def checkpoint(self, step: int) -> None:
        """The newest committed checkpoint; may be the same as before."""
        ...

    def stopping(self, message: str) -> None:
        """A stop was asked for."""
        ...

    def warn(self, message: str) -> None:
        """Something the user should know, that did not stop the run."""
        ...


@dataclass
class Watch:
    """The watch over one segment's workers."""

    run: RunDirectory
    segment: int
    D: int
    from_step: int
    workers: Workers
    stop: LauncherStopRequest
    lock: RunLock
    observer: SegmentObserver
    leave_within_s: float = LEAVE_WITHIN_S
    clock: Callable[[], float] = time.monotonic
    _asked: bool = False
    _looked_at: float | None = None
    _remarks: WarningsTail = field(init=False)
    _oom_kills_before: int = field(init=False)
    _warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._oom_kills_before = oom_kills() or 0
        self._remarks = WarningsTail(self.run.warnings_file(self.segment))

    def until_end(self) -> SegmentEnd:
        """Watch until no process is left.  Whatever is raised, nothing is left behind."""
        tail = Tail(self.run.metrics_file)
        try:
            outcomes, exit_code = self._follow(tail)
        finally:
            self.workers.kill()
            self._show(tail)
        return self._ending(outcomes, exit_code)

    def _ending(self, outcomes: list[Outcome], exit_code: int | None) -> SegmentEnd:
        """How the segment ended, with the warnings of the watch itself."""
        end = self._judged(outcomes, exit_code)
        return replace(end, remarks=(*end.remarks, *self._warnings))

    def _judged(self, outcomes: list[Outcome], exit_code: int | None) -> SegmentEnd:
        """How the segment ended."""
        if self.stop.second is not None:
            return SegmentEnd("killed", proven_of(outcomes), at_once=int(self.stop.second))
        if self.lock.is_lost:
            return SegmentEnd("failed", proven_of(outcomes), lost_lock(self.run))
        return self._judge(self._outcomes(), exit_code)

    def _follow(self, tail: Tail) -> tuple[list[Outcome], int | None]:
        """Poll until all is over, or it is time to end it."""
        leave_at: float | None = None
        while True:
            exit_code = self.workers.poll()
            outcomes = self._outcomes()
            self._show(tail)
            self._pass_stop_on()
            if exit_code is not None or self.stop.second is not None or self.lock.lost:
                return outcomes, exit_code
            if len(outcomes) == self.D or any(outcome.kind == "failed" for outcome in outcomes):
                leave_at = leave_at or self.clock() + self.leave_within_s
            if leave_at is not None and self.clock() >= leave_at:
                return outcomes, None
            time.sleep(POLL_S)

    def _outcomes(self) -> list[Outcome]:
        """The ranks that have reported, in order."""
        return read_outcomes(self.run, self.segment, self.D)

    def _show(self, tail: Tail) -> None:
        """Tell the spectator what is new; look for checkpoints once a second."""
        for line in self._remarks.new_lines():
            self._tell(self.observer.warn, line)
        rows = [row for row in tail.new_rows() if row["step"] > self.from_step]
        if rows:
            self._tell(self.observer.rows, rows)
        if self._looked_at is None or self.clock() - self._looked_at >= CHECKPOINTS_EVERY_S:
            self._looked_at = self.clock()
            steps = [step for step in steps_in(self.run.checkpoints) if step > self.from_step]
            if steps:
                self._tell(self.observer.checkpoint, steps[-1])

    def _tell(self, listener: Callable[[Any], None], news: object) -> None:
        """Tell the spectator something.  No error of a display may end the run that it shows."""
        if self._warnings:
            return
        try:
            listener(news)
        except Exception as error:  # noqa: BLE001  the boundary between a run and whatever shows it
            self._warnings.append(f"the live view failed: {type(error).__name__}: {error}")

    def _pass_stop_on(self) -> None:
        """Ask the workers to stop: they agree on a step boundary among themselves.

        By a file; by SIGTERM where none can be made, on a full disk say.
        """
        if self.stop.first is None or self._asked:
            return
        self._asked = True
        try:
            replace_text(self.run.stop_file(self.segment), f"{self.stop.first.name}\n")
        except OSError:
            self.workers.terminate()
        self._tell(
            self.observer.stopping,
            f"{self.stop.first.name}: saving after this step; a second signal stops at once",
        )

    def _judge(self, outcomes: list[Outcome], exit_code: int | None) -> SegmentEnd:
        """How the segment ended, from what the ranks reported."""
        kinds = {outcome.kind for outcome in outcomes}
        if "failed" in kinds or len(outcomes) < self.D:
            killed = max((oom_kills() or 0) - self._oom_kills_before, 0)
            error = first_cause(self.run, self.segment, outcomes, exit_code, killed)
            return SegmentEnd("failed", proven_of(outcomes), error, remarks=remarks_of(outcomes))
        assert len(kinds) == 1, f"ranks ended differently: {sorted(kinds)}"
        return SegmentEnd(kinds.pop(), proven_of(outcomes), remarks=remarks_of(outcomes))


def proven_of(outcomes: Sequence[Outcome]) -> int:
    """Steps that the ranks proved: rank 0 keeps the ledger, the others say 0 or the same."""
    return max((outcome.proven_steps for outcome in outcomes), default=0)


def remarks_of(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """What the ranks want to be told, each sentence once."""
    return tuple(dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings))


def lost_lock(run: RunDirectory) -> RunFailedError:
    """Another process took this one for dead and trains the run."""
    return RunFailedError(
        f"another process took {run.name} over while this one was suspended; it trains the run now",
        where=str(run.lock_file),
        hints=[f"`{command('llmrun', 'runs', 'show', run.path)}` names it"],
    )
