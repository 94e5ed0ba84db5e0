"""torchrun's agent, tied to its launcher: `boot.py -m llmrun.launch.agent PARENT_PID FAILURES_FILE ARGUMENT…`.

The arguments are torchrun's own.  The agent dies with the launcher, however that ends, and each worker with
the agent.  Which workers failed and how is written to FAILURES_FILE.  Stop signals are the launcher's and
the workers' business: torchrun's own handling would SIGKILL a worker that saves for more than 30 s.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from llmrun.data.marks import offer_marks
from llmrun.durable import replace_json
from llmrun.launch.signals import STOP_SIGNALS
from llmrun.machine import AGENT_PID, die_with_parent


def main(arguments: list[str]) -> int:
    """Run torchrun.  Returns 1 where a worker failed, else 0."""
    parent, failures_file, *torchrun = arguments
    die_with_parent(int(parent))
    os.environ[AGENT_PID] = str(os.getpid())
    offer_marks()
    for number in STOP_SIGNALS:
        # a handler, not SIG_IGN, which workers would inherit
        signal.signal(number, lambda *_: None)
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


def describe(failures: dict[int, Any]) -> list[dict[str, int]]:
    """The workers that had failed when torchrun looked: rank, PID, exit code (negative: a signal)."""
    return [
        {"rank": rank, "pid": failure.pid, "exit_code": failure.exitcode}
        for rank, failure in sorted(failures.items())
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
