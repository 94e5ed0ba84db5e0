"""The signals that ask a run to stop, as shells, terminals and batch systems send them.

SIGTERM, SIGINT and SIGUSR1 everywhere; SIGHUP when an ssh session closes; SIGUSR2 from LSF and SGE; SIGXCPU when a
limit of CPU time is near; SIGQUIT from a terminal or from `timeout -s QUIT`.
"""

import signal
from collections.abc import Iterable

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGQUIT,
)

WORKER_STOP_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGUSR2)
"""In a worker SIGUSR2 prints the stacks of all threads into its log."""

REPEAT_S = 0.5
"""A second signal within this time is the same request: `timeout` signals its child and then the whole process
group, and systemd sends SIGHUP right after SIGTERM."""

STOP_EXIT_CODE = 128
"""Added to a signal's number: the exit code of a process that the signal stopped."""


def signals_to_catch(numbers: Iterable[signal.Signals] = STOP_SIGNALS) -> list[signal.Signals]:
    """`numbers`, without SIGHUP if it is ignored, as it is under nohup."""
    return [
        number
        for number in numbers
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]
