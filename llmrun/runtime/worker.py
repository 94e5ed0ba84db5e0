"""One rank of one segment, run by torchrun's agent in a fork: `llmrun.runtime.worker RUN_DIR SEGMENT`.

It sends its output to its own log first, and writes its outcome last; the launcher reads that, not the exit code.
"""

import faulthandler
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from llmrun.errors import (
    DESCRIPTORS_HINT,
    EXIT_BUG,
    TOO_MANY_FILES,
    DamagedError,
    InputError,
    LlmrunError,
    OtherRankError,
    Place,
    RefusedError,
    RunFailedError,
    hints_for,
)
from llmrun.machine import AGENT_PID, die_with_parent, raise_open_files_limit
from llmrun.provenance.imports import UncoveredImportError
from llmrun.run.directory import RunDirectory
from llmrun.run.worker_spec import Outcome, WorkerSpec
from llmrun.storage.durable import open_to_append


def main() -> NoReturn:
    """Run one rank and exit without the interpreter's shutdown, in which gloo sometimes crashes."""
    die_with_parent(int(os.environ.get(AGENT_PID) or os.getppid()))
    raise_open_files_limit()
    run, segment, rank = RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), int(os.environ["RANK"])
    log_to(run.rank_log(segment, rank))
    outcome, code = work(run, segment, rank)
    outcome.write(run.outcome_file(segment, rank))
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def log_to(path: Path) -> None:
    """Send standard output and error to this rank's log; SIGUSR2 prints all stacks there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_to_append(path)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)


def work(run: RunDirectory, segment: int, rank: int) -> tuple[Outcome, int]:
    """The segment's outcome on this rank, and an exit code (0 or that of the error)."""
    from llmrun.run.signals import WorkerStopRequest
    from llmrun.runtime.progress import Progress

    Outcome.reserve(run.outcome_file(segment, rank))
    stop = WorkerStopRequest(run.stop_file(segment))
    stop.listen()
    worker_spec = WorkerSpec.read(run.worker_spec_file(segment))
    progress = Progress.at_start(worker_spec, rank)
    try:
        from llmrun.runtime.session import run_segment

        return progress.outcome(run_segment(run, worker_spec, stop, progress)), 0
    except Exception as error:  # noqa: BLE001  every error becomes an outcome
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for a lost loader worker
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        known = as_known(error)
        if isinstance(error, UncoveredImportError) and progress.step == worker_spec.from_step:
            known = RefusedError(known.message, where=known.where, hints=known.hints)
        return progress.outcome(
            "failed", known, consequence=isinstance(known, OtherRankError)
        ), known.exit_code


GLOO_TIME_OUTS = ("Timed out waiting", "timeout caused pair closure")
"""Messages of gloo if a peer lives and does not answer; the second is that of every later operation."""

LOADER_WORKER_LOST = "DataLoader worker (pid"
"""`… is killed by signal`, `… exited unexpectedly`; an error raised in a worker names no PID.

If torch sees the pipe break before it sees the worker dead, it raises EOFError or ConnectionError.
"""


def as_known(error: Exception) -> LlmrunError:
    """Classify an error of a worker: out of memory, full disk, lost rank, …; anything else is a bug of llmrun."""
    import torch
    import torch.distributed as dist

    from llmrun.runtime.process_group import TIMEOUT

    if isinstance(error, DamagedError):
        return RunFailedError(error.message, where=error.where, caused_by=error.caused_by, hints=error.hints)
    if isinstance(error, LlmrunError):
        return error
    if isinstance(error, UncoveredImportError):
        return RunFailedError(
            str(error),
            where=error.path,
            hints=["import it when the program starts, or start again: code is read again"],
        )
    message = str(error)
    first_line = message.splitlines()[:1]
    limit = as_system_limit(error)
    if limit is not None:
        return limit
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in message:
        return RunFailedError(
            "out of memory",
            caused_by=first_line,
            hints=["lower batch.μ_tok (other bits), or set activation_checkpointing: block (same bits)"],
        )
    if isinstance(error, RuntimeError) and any(text in message for text in GLOO_TIME_OUTS):
        return RunFailedError(
            f"a rank hung: no answer in {TIMEOUT.total_seconds() / 60:.0f} minutes",
            caused_by=first_line,
            hints=["the logs of the other ranks show how far each of them got"],
        )
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in message):
        return OtherRankError("lost another rank", caused_by=first_line)
    if LOADER_WORKER_LOST in message and "Bus error" in message:
        return RunFailedError(
            "a loader worker was killed by SIGBUS: a shard was truncated while it was read, or its disk failed",
            caused_by=first_line,
            hints=["`llmrun data check DIR` names damaged shards"],
        )
    if LOADER_WORKER_LOST in message or isinstance(error, EOFError | ConnectionError):
        return RunFailedError(
            "a loader worker was killed",
            caused_by=first_line,
            hints=["if memory ran out, lower data.num_workers"],
        )
    if isinstance(error, torch.AcceleratorError):
        return RunFailedError("the GPU reported an error", caused_by=first_line)
    own = of_own_model(error)
    if own is not None:
        return own
    if isinstance(error, OSError):
        return RunFailedError(
            f"operating system error: {error.strerror or error}", where=str(error.filename or "") or None
        )
    bug = LlmrunError(
        f"a bug of llmrun: {type(error).__name__}: {message}", hints=["please report it with this log"]
    )
    assert bug.exit_code == EXIT_BUG
    return bug


def of_own_model(error: Exception) -> LlmrunError | None:
    """The error to report if an operation has no deterministic kernel, or if the user's own model failed; else None."""
    lines, message = own_lines(error), str(error)
    if "does not have a deterministic implementation" in message:
        return RunFailedError(
            "an operation has no deterministic implementation on this device",
            caused_by=[*lines, *message.splitlines()[:1]],
        )
    if not lines:
        return None
    return InputError(
        f"the model failed: {type(error).__name__}: {message}",
        where=Place(key="model.factory"),
        caused_by=lines,
    )


LINES_SHOWN = 6


def own_lines(error: Exception) -> list[str]:
    """The last lines of a traceback from the first file of the user's model on; empty if none raised."""
    from llmrun.runtime.model_import import own_files

    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename in own_files()), len(frames))
    lines = [f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[first:]]
    return lines[-LINES_SHOWN:]


DESCRIPTORS_GONE = ("Too many open files", "received 0 items of ancdata")
"""How torch reports EMFILE: by the system's text, or by a descriptor that a socket could not deliver."""


def as_system_limit(error: Exception) -> RunFailedError | None:
    """The error to report if the limit of open files caused `error`; else None."""
    message = str(error)
    first_line = message.splitlines()[:1]
    if isinstance(error, OSError) and error.errno in TOO_MANY_FILES:
        return RunFailedError("too many open files", caused_by=first_line, hints=hints_for(error))
    if isinstance(error, RuntimeError) and any(text in message for text in DESCRIPTORS_GONE):
        return RunFailedError("too many open files", caused_by=first_line, hints=[DESCRIPTORS_HINT])
    return None


if __name__ == "__main__":
    main()
