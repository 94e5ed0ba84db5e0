"""torchrun's agent, tied to its launcher: `boot.py -m llmrun.launch.agent PARENT_PID FAILURES_FILE ARGUMENT…`.

The arguments are torchrun's own.  The agent dies with the launcher, however that ends, and each worker with
the agent.  Which workers failed and how is written to FAILURES_FILE.

A stop signal to the agent becomes the run's stop file, as one to the launcher does; torchrun's own handling would
SIGKILL a worker that saves for more than 30 s.  The signals are blocked in all threads, and one thread waits for
them.  Workers inherit the block, and unblock the signals when they have handlers: until then a signal waits.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from llmrun.data.shard_reader import offer_marks
from llmrun.launch.torchrun import ask_workers_to_stop
from llmrun.machine import AGENT_PID, die_with_parent
from llmrun.run.directory import RunDirectory
from llmrun.run.signals import STOP_SIGNALS, signals_to_catch
from llmrun.storage.durable import replace_json, replace_text


def main(arguments: list[str]) -> int:
    """Run torchrun.  Returns 1 where a worker failed, else 0."""
    parent, failures_file, *torchrun = arguments
    die_with_parent(int(parent))
    os.environ[AGENT_PID] = str(os.getpid())
    offer_marks()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=pass_stops_on, args=(stop_file_of(torchrun),), daemon=True).start()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if "--signals-to-handle" in run.get_args_parser().format_help():
        torchrun = ["--signals-to-handle=SIGQUIT", *torchrun]
    try:
        run.main(torchrun)
    except ChildFailedError as error:
        replace_json(Path(failures_file), describe(error.failures))
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def stop_file_of(torchrun: list[str]) -> Path:
    """The stop file of the segment that torchrun's arguments start: `… -m MODULE RUN_DIR SEGMENT`."""
    at = torchrun.index("-m")
    return RunDirectory(Path(torchrun[at + 2])).stop_file(int(torchrun[at + 3]))


def pass_stops_on(stop_file: Path) -> None:
    """Wait for stop signals for ever; each makes the stop file, or is passed to the workers if that fails."""
    while True:
        number = signal.Signals(signal.sigwait(signals_to_catch()))
        try:
            replace_text(stop_file, f"{number.name}\n")
        except OSError:
            ask_workers_to_stop(os.getpid())


def describe(failures: dict[int, Any]) -> list[dict[str, int]]:
    """The workers that had failed when torchrun looked: rank, PID, exit code (negative: a signal)."""
    return [
        {"rank": rank, "pid": failure.pid, "exit_code": failure.exitcode}
        for rank, failure in sorted(failures.items())
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
