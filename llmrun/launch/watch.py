"""Watches the workers of one segment until all have ended, and determines how the segment ended.

The workers' outcome files decide, never an exit code: a process may crash after its work is done and reported.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrun.cgroups import oom_kills
from llmrun.errors import LlmrunError, RunFailedError
from llmrun.launch.failure_report import segment_failure
from llmrun.launch.torchrun import Workers
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import RunLock
from llmrun.run.record import Ending
from llmrun.run.signals import LauncherStopRequest
from llmrun.run.warnings import WarningsTail
from llmrun.run.worker_spec import Outcome
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.durable import replace_text
from llmrun.storage.metrics.jsonl import Row, Tail
from llmrun.text import command

POLL_S = 0.1
CHECKPOINTS_EVERY_S = 1.0
EXIT_WITHIN_S = 20.0
"""How long processes may take to end by themselves after the last outcome or the first failure."""


@dataclass(frozen=True)
class SegmentEnd:
    """How a segment ended.

    why:          as in run.json.
    proven_steps: recomputed steps that were equal to an earlier ledger.
    error:        what failed; if `why` is `finished` or `reached`, only run.json could not be written.
    warnings:     what did not stop the run, from ranks and launcher.
    killed_by:    the number of the second stop signal, if one came.
    """

    why: Ending
    proven_steps: int = 0
    error: LlmrunError | None = None
    killed_by: int | None = None
    warnings: tuple[str, ...] = ()


class SegmentObserver(Protocol):
    """Receives events while workers run.  After its first exception it receives no more; the run goes on."""

    def rows(self, rows: Sequence[Row]) -> None:
        """New objects of metrics.jsonl, of this segment only."""
        ...

    def checkpoint(self, step: int) -> None:
        """The step of the newest committed checkpoint; may repeat."""
        ...

    def stopping(self, message: str) -> None:
        """A stop signal arrived."""
        ...

    def warn(self, message: str) -> None:
        """A warning that did not stop the run."""
        ...


@dataclass
class Watch:
    """The watch over one segment's workers.

    hints: added to the error of a failure that a further segment could get over.
    clock: seconds, monotonic.
    """

    run: RunDirectory
    segment: int
    D: int
    from_step: int
    workers: Workers
    stop: LauncherStopRequest
    lock: RunLock
    observer: SegmentObserver
    hints: Sequence[str] = ()
    exit_within_s: float = EXIT_WITHIN_S
    clock: Callable[[], float] = time.monotonic
    _stop_forwarded: bool = False
    _checkpoints_read_at: float | None = None
    _new_warnings: WarningsTail = field(init=False)
    _oom_kills_before: int = field(init=False)
    _observer_error: str | None = None

    def __post_init__(self) -> None:
        self._oom_kills_before = oom_kills() or 0
        self._new_warnings = WarningsTail(self.run.warnings_file(self.segment))

    def until_end(self) -> SegmentEnd:
        """Watch until no process is left.  Kills the workers whatever is raised."""
        tail = Tail(self.run.metrics_file)
        try:
            outcomes, exit_code = self._poll_until_over(tail)
        finally:
            self.workers.kill()
            self._report_news(tail)
        end = self._end(outcomes, exit_code)
        if self._observer_error is not None:
            end = replace(end, warnings=(*end.warnings, self._observer_error))
        return end

    def _poll_until_over(self, tail: Tail) -> tuple[list[Outcome], int | None]:
        """Poll until the workers have ended or must be killed; the exit code is None in that case."""
        exit_at: float | None = None
        while True:
            exit_code = self.workers.poll()
            outcomes = self._outcomes()
            self._report_news(tail)
            self._forward_stop()
            if exit_code is not None or self.stop.second is not None or self.lock.lost:
                return outcomes, exit_code
            if len(outcomes) == self.D or any(outcome.kind == "failed" for outcome in outcomes):
                exit_at = exit_at or self.clock() + self.exit_within_s
            if exit_at is not None and self.clock() >= exit_at:
                return outcomes, None
            time.sleep(POLL_S)

    def _end(self, outcomes: list[Outcome], exit_code: int | None) -> SegmentEnd:
        """How the segment ended.  outcomes: those that were there before the workers were killed."""
        if self.stop.second is not None:
            return SegmentEnd("killed", proven_steps_of(outcomes), killed_by=int(self.stop.second))
        if self.lock.is_lost:
            return SegmentEnd("failed", proven_steps_of(outcomes), lost_lock(self.run))
        outcomes = self._outcomes()
        kinds = {outcome.kind for outcome in outcomes}
        if "failed" in kinds or len(outcomes) < self.D:
            killed = max((oom_kills() or 0) - self._oom_kills_before, 0)
            error = segment_failure(
                self.run, self.segment, outcomes, exit_code, oom_kills=killed, hints=self.hints
            )
            return SegmentEnd("failed", proven_steps_of(outcomes), error, warnings=warnings_of(outcomes))
        assert len(kinds) == 1, f"ranks ended differently: {sorted(kinds)}"
        return SegmentEnd(kinds.pop(), proven_steps_of(outcomes), warnings=warnings_of(outcomes))

    def _outcomes(self) -> list[Outcome]:
        """The outcomes of the ranks that have reported, in order."""
        files = [self.run.outcome_file(self.segment, rank) for rank in range(self.D)]
        return [Outcome.read(file) for file in files if file.exists()]

    def _report_news(self, tail: Tail) -> None:
        """Pass new warnings, metrics and checkpoints on to the observer; checkpoints once a second."""
        for line in self._new_warnings.new_lines():
            self._call(self.observer.warn, line)
        rows = [row for row in tail.new_rows() if row["step"] > self.from_step]
        if rows:
            self._call(self.observer.rows, rows)
        now = self.clock()
        if self._checkpoints_read_at is None or now - self._checkpoints_read_at >= CHECKPOINTS_EVERY_S:
            self._checkpoints_read_at = now
            steps = [step for step in steps_in(self.run.checkpoints) if step > self.from_step]
            if steps:
                self._call(self.observer.checkpoint, steps[-1])

    def _call(self, method: Callable[[Any], None], event: object) -> None:
        """Call the observer, whose errors must not end the run."""
        if self._observer_error is not None:
            return
        try:
            method(event)
        except Exception as error:  # noqa: BLE001  the boundary between a run and whatever displays it
            self._observer_error = f"the live view failed: {type(error).__name__}: {error}"

    def _forward_stop(self) -> None:
        """Pass the first stop signal on to the workers, which agree on a step boundary among themselves.

        Through the stop file; through SIGTERM if that cannot be made, for example on a full disk.
        """
        if self.stop.first is None or self._stop_forwarded:
            return
        self._stop_forwarded = True
        try:
            replace_text(self.run.stop_file(self.segment), f"{self.stop.first.name}\n")
        except OSError:
            self.workers.terminate()
        self._call(
            self.observer.stopping,
            f"{self.stop.first.name}: saving after this step; a second signal stops at once",
        )


def proven_steps_of(outcomes: Sequence[Outcome]) -> int:
    """Steps that were proven: rank 0 keeps the ledger, the others report 0 or the same number."""
    return max((outcome.proven_steps for outcome in outcomes), default=0)


def warnings_of(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The warnings of all ranks, each one once."""
    return tuple(dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings))


def lost_lock(run: RunDirectory) -> RunFailedError:
    """The error for a launcher that another one took for dead."""
    return RunFailedError(
        f"another process took {run.name} over while this one was suspended; it trains the run now",
        where=str(run.lock_file),
        hints=[f"`{command('llmrun', 'runs', 'show', run.path)}` names it"],
    )
