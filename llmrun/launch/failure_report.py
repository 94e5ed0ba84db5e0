"""Why a segment failed: the first rank that did, its own last words, its exit code or signal."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import Hint, LlmrunError, Place, RunFailedError, error_of
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome
from llmrun.text import command

LAST_LINES = 20
TAIL_BYTES = 65536

SIGNAL_HINTS = {
    signal.SIGKILL: "the system kills like this when memory runs out: look for `oom` in `dmesg`; a smaller "
    "μ_tok, fewer ranks or `--set data.num_workers=0` need less",
    signal.SIGBUS: "shared memory may be full (`df -h` shows it) or a mapped file was cut short; "
    "`--set data.num_workers=0` uses no shared memory",
    signal.SIGSEGV: "a native library crashed; the stack stands in the rank's log",
    signal.SIGILL: "a library was built for another processor than this one",
    signal.SIGTERM: "somebody else stopped it, such as the batch system at the end of its time",
}

AFTER_OTHERS = (signal.SIGABRT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""How a rank may die because another one did: gloo and NCCL abort, torchrun terminates."""


def signal_of(exit_code: int) -> signal.Signals | None:
    """The signal behind a negative exit code, if it has a name."""
    try:
        return signal.Signals(-exit_code) if exit_code < 0 else None
    except ValueError:
        return None


def ended_how(exit_code: int | None) -> str:
    """`was killed by SIGKILL`, `ended with exit code 1`."""
    if exit_code is None:
        return "hung and was stopped"
    killer = signal_of(exit_code)
    return f"was killed by {killer.name}" if killer else f"ended with exit code {exit_code}"


@dataclass(frozen=True)
class Death:
    """A worker that torchrun saw fail.  exit_code: negative for a signal."""

    rank: int
    pid: int
    exit_code: int

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that killed it, if one did."""
        return signal_of(self.exit_code)


def read_deaths(path: Path) -> list[Death]:
    """The failures that the agent wrote; none where it was killed itself."""
    if not path.exists():
        return []
    return [Death(**death) for death in json.loads(path.read_text(encoding="utf-8"))]


def first_cause(
    run: RunDirectory,
    segment: int,
    outcomes: Sequence[Outcome],
    agent_exit_code: int | None,
    oom_kills: int = 0,
) -> LlmrunError:
    """The error to show for a failed segment.

    oom_kills: processes of this control group that the kernel killed for memory while the segment ran.
    """
    error = _first_cause(run, segment, outcomes, agent_exit_code)
    if oom_kills and isinstance(error, RunFailedError):
        processes = "a process" if oom_kills == 1 else f"{oom_kills:,} processes"
        reason = f"memory ran out: the kernel killed {processes} of this control group"
        error.caused_by = (reason, *error.caused_by)
    return error


def _first_cause(
    run: RunDirectory, segment: int, outcomes: Sequence[Outcome], agent_exit_code: int | None
) -> LlmrunError:
    """The error of the process that ended first.

    A rank killed from outside comes first (nobody kills because of a lost peer), then the earliest rank
    that failed by itself, then other deaths, then ranks that only lost a peer.
    """
    spoke = {outcome.rank for outcome in outcomes}
    silent = [death for death in read_deaths(run.failures_file(segment)) if death.rank not in spoke]
    struck = [death for death in silent if death.signal is not None and death.signal not in AFTER_OTHERS]
    failed = sorted(
        (outcome for outcome in outcomes if outcome.kind == "failed"),
        key=lambda outcome: (outcome.consequence, run.outcome_file(segment, outcome.rank).stat().st_mtime_ns),
    )
    if struck:
        return death_of(run, segment, struck[0])
    if failed and not failed[0].consequence:
        return failure_of(run, segment, failed[0])
    if silent:
        return death_of(run, segment, silent[0])
    if failed:
        return failure_of(run, segment, failed[0])
    return RunFailedError(
        f"the workers ended without a word: torchrun {ended_how(agent_exit_code)}",
        where=str(run.torchrun_log(segment)),
        caused_by=last_lines(run.torchrun_log(segment)),
        hints=[*signal_hints(agent_exit_code), resume_hint(run)],
    )


def signal_hints(exit_code: int | None) -> list[str]:
    """What a signal that ended a process usually means; empty for an exit code."""
    killer = None if exit_code is None else signal_of(exit_code)
    return [SIGNAL_HINTS[killer]] if killer in SIGNAL_HINTS else []


def failure_of(run: RunDirectory, segment: int, outcome: Outcome) -> LlmrunError:
    """The error that a rank reported itself, in its own words and class."""
    assert outcome.error is not None
    error = error_of(outcome.error)
    log = run.rank_log(segment, outcome.rank)
    if error.where is None:
        error.where = Place(str(log), note=f"rank {outcome.rank}")
    else:
        error.caused_by = (*error.caused_by, f"found by rank {outcome.rank}, {log}")
    if isinstance(error, RunFailedError):
        error.hints = (*error.hints, resume_hint(run))
    return error


def death_of(run: RunDirectory, segment: int, death: Death) -> RunFailedError:
    """The error for a rank that died without reporting anything."""
    how = ended_how(death.exit_code)
    log = run.rank_log(segment, death.rank)
    return RunFailedError(
        f"rank {death.rank} {how} (PID {death.pid})",
        where=str(log),
        caused_by=last_lines(log),
        hints=[*signal_hints(death.exit_code), resume_hint(run)],
    )


def resume_hint(run: RunDirectory) -> Hint:
    """What to do next."""
    resume = command("llmrun", "resume", run.path)
    return Hint.command(f"`{resume}` continues from the newest sound checkpoint", run.path)


def last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log that are not empty; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
