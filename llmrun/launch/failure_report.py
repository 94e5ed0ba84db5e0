"""The error that a failed segment shows: which process failed first, and what it reported.

Order: a rank killed from outside (nobody kills a rank because a peer was lost), then the earliest rank that failed
by itself, then any other rank that died, then a rank that only lost a peer.
"""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrun.errors import LlmrunError, RunFailedError, error_of
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome
from llmrun.text import command

LAST_LINES = 20
TAIL_BYTES = 65536

SIGNAL_HINTS = {
    signal.SIGKILL: "SIGKILL is usually the system's answer to a lack of memory: look for `oom` in `dmesg`; "
    "a smaller `batch.μ_tok`, fewer ranks or `--set data.num_workers=0` need less",
    signal.SIGBUS: "shared memory may be full (see `df -h`), or a mapped file was truncated; "
    "`--set data.num_workers=0` uses no shared memory",
    signal.SIGSEGV: "a native library crashed: the rank's log has the stack",
    signal.SIGILL: "a library was built for another processor than this one",
    signal.SIGTERM: "another process stopped it, such as the batch system at its time limit",
}

FOLLOW_UP_SIGNALS = (signal.SIGABRT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that may end a rank because another one failed: gloo and NCCL abort, torchrun terminates."""


@dataclass(frozen=True)
class WorkerDeath:
    """A worker that torchrun saw fail.  exit_code: negative for a signal."""

    rank: int
    pid: int
    exit_code: int

    @property
    def was_killed_from_outside(self) -> bool:
        """Whether a signal ended it that is not the consequence of another rank's failure."""
        killer = signal_of(self.exit_code)
        return killer is not None and killer not in FOLLOW_UP_SIGNALS


def read_deaths(path: Path) -> list[WorkerDeath]:
    """The failures that torchrun's agent wrote; empty if it was killed itself."""
    if not path.exists():
        return []
    return [WorkerDeath(**death) for death in json.loads(path.read_text(encoding="utf-8"))]


def segment_failure(
    run: RunDirectory,
    segment: int,
    outcomes: Sequence[Outcome],
    agent_exit_code: int | None,
    *,
    oom_kills: int = 0,
    hints: Sequence[str] = (),
) -> LlmrunError:
    """The error of the process that failed first.

    agent_exit_code: of torchrun's agent; None if it had to be killed.
    oom_kills:       processes of this control group that the kernel killed for lack of memory during the segment.
    hints:           added to an error that a further segment could get over (RunFailedError).
    """
    reported = {outcome.rank for outcome in outcomes}
    deaths = [death for death in read_deaths(run.failures_file(segment)) if death.rank not in reported]
    killed = [death for death in deaths if death.was_killed_from_outside]
    failed = sorted(
        (outcome for outcome in outcomes if outcome.kind == "failed"),
        key=lambda outcome: (outcome.consequence, run.outcome_file(segment, outcome.rank).stat().st_mtime_ns),
    )
    causes = [] if not oom_kills else [out_of_memory(oom_kills)]
    if killed:
        return death_error(run, segment, killed[0], causes, hints)
    if failed and not failed[0].consequence:
        return reported_error(run, segment, failed[0], causes, hints)
    if deaths:
        return death_error(run, segment, deaths[0], causes, hints)
    if failed:
        return reported_error(run, segment, failed[0], causes, hints)
    log = run.torchrun_log(segment)
    return RunFailedError(
        f"the workers ended without an outcome: torchrun {how_it_ended(agent_exit_code)}",
        where=str(log),
        caused_by=[*causes, *last_lines(log)],
        hints=[*signal_hints(agent_exit_code), *hints],
    )


def reported_error(
    run: RunDirectory, segment: int, outcome: Outcome, causes: Sequence[str], hints: Sequence[str]
) -> LlmrunError:
    """The error that a rank reported, with the rank and its log."""
    assert outcome.error is not None
    report = dict(outcome.error)
    rank = f"rank {outcome.rank}, {run.rank_log(segment, outcome.rank)}"
    if report["where"] is None:
        report["where"] = rank
    else:
        report["caused_by"] = [*report["caused_by"], f"found by {rank}"]
    if report["exit_code"] == RunFailedError.exit_code:
        report["caused_by"] = [*causes, *report["caused_by"]]
        report["hints"] = [*report["hints"], *hints]
    return error_of(report)


def death_error(
    run: RunDirectory, segment: int, death: WorkerDeath, causes: Sequence[str], hints: Sequence[str]
) -> RunFailedError:
    """The error for a rank that died before it reported an outcome."""
    log = run.rank_log(segment, death.rank)
    return RunFailedError(
        f"rank {death.rank} {how_it_ended(death.exit_code)} (PID {death.pid})",
        where=str(log),
        caused_by=[*causes, *last_lines(log)],
        hints=[*signal_hints(death.exit_code), *hints],
    )


def out_of_memory(oom_kills: int) -> str:
    """The cause that the kernel's own count gives."""
    processes = "a process" if oom_kills == 1 else f"{oom_kills:,} processes"
    return f"memory ran out: the kernel killed {processes} of this control group"


def signal_of(exit_code: int) -> signal.Signals | None:
    """The signal behind a negative exit code, if it has a name."""
    try:
        return signal.Signals(-exit_code) if exit_code < 0 else None
    except ValueError:
        return None


def how_it_ended(exit_code: int | None) -> str:
    """`was killed by SIGKILL`, `ended with exit code 1`; None: it had to be killed."""
    if exit_code is None:
        return "hung and was stopped"
    killer = signal_of(exit_code)
    return f"was killed by {killer.name}" if killer else f"ended with exit code {exit_code}"


def signal_hints(exit_code: int | None) -> list[str]:
    """What the signal that ended a process usually means; empty for an exit code."""
    killer = None if exit_code is None else signal_of(exit_code)
    return [SIGNAL_HINTS[killer]] if killer in SIGNAL_HINTS else []


def resume_hint(run: RunDirectory) -> str:
    """The command that continues a run."""
    return f"`{command('llmrun', 'resume', run.path)}` continues from the newest sound checkpoint"


def last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """The last `count` lines of a log that are not empty; empty if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
