"""torchrun's agent: `boot.py -m llmrun.launch.agent PARENT_PID WORKER_MODULE [PROBE_MODULE DEVICE]`.

1. Imports torch, torchrun and what workers need.
2. If a probe is given, runs it in a fork; it answers on the file descriptor in LLMRUN_ANSWER_FD.
3. Waits for a job (`AgentJob`, one line on standard input).  Ends if standard input is closed without one.
4. Runs torchrun.  If the job has a status file, in a fork, and then waits for the next job.  Each worker is a fork: it has everything imported, and its code is the code that was probed.

The agent has one thread until the job is there and computes nothing itself, so forks inherit no thread pools and
no CUDA context.  It dies with the launcher, and each fork with the agent.

A stop signal to the agent becomes the run's stop file, as one to the launcher does; torchrun's own handling would
SIGKILL a worker that saves for more than 30 s.  The signals are blocked in all threads, and one thread waits for
them.  Workers inherit the block, and unblock the signals when they have handlers: until then a signal stays pending.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from llmrun.data.shard_reader import offer_marks
from llmrun.launch import boot
from llmrun.launch.torchrun import AgentJob, ask_workers_to_stop, child_command
from llmrun.machine import AGENT_PID, ANSWER, die_with_parent
from llmrun.provenance.code import numeric_files
from llmrun.provenance.imports import ImportRecorder
from llmrun.run.signals import STOP_SIGNALS, signals_to_catch
from llmrun.storage.durable import open_to_append, replace_json, replace_text


def main(arguments: list[str]) -> int:
    """Run the agent.  Returns the exit code: 1 if the probe or a worker failed, else 0."""
    parent, worker_module, *probing = arguments
    die_with_parent(int(parent))
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    import_early()
    if probing:
        probe_module, device = probing
        exit_code = ForkedProcess(probe_module, [device]).wait()
        close_answer()
        if exit_code != 0:
            return 1
    while True:
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            return 0
        job = AgentJob.of_line(line)
        if job.status_file is None:
            return run_job(job, worker_module)
        run_in_fork(job, worker_module, Path(job.status_file))


def run_job(job: AgentJob, worker_module: str) -> int:
    """Run the workers of a job in this process.  Returns the exit code: 1 if one failed, else 0."""
    append_output_to(Path(job.log))
    os.environ[AGENT_PID] = str(os.getpid())
    offer_marks()
    threading.Thread(target=pass_stops_on, args=(Path(job.stop_file),), daemon=True).start()
    return run_torchrun(job, worker_module)


def run_in_fork(job: AgentJob, worker_module: str, status_file: Path) -> None:
    """Run a job in a fork of this process and wait for its end; the status file gets its PID, then its exit code."""
    agent, pid = os.getpid(), os.fork()
    if pid == 0:
        code = 1
        try:
            die_with_parent(agent)
            os.setsid()
            code = run_job(job, worker_module)
        except BaseException:  # noqa: BLE001  a fork must not return into its parent's code
            traceback.print_exc()
        finally:
            os._exit(code)
    replace_json(status_file, {"pid": pid, "exit_code": None})
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    replace_json(status_file, {"pid": pid, "exit_code": code})


def import_early() -> None:
    """Import torchrun and all that a worker needs until its first step, and digest it, once for all forks.

    torch imports its compiler stack at the first use of an optimizer or of the determinism switches.
    """
    import torch._dynamo
    import torch._inductor.config
    import torch.distributed.run  # noqa: F401

    import llmrun.runtime.session  # noqa: F401

    ImportRecorder.install().source_files()
    numeric_files()


def close_answer() -> None:
    """End the channel of the probe's answer: workers have none."""
    ImportRecorder.install().trail = None
    os.close(int(os.environ.pop(ANSWER)))


def append_output_to(log: Path) -> None:
    """Turn standard output and error into the end of `log`, and standard input into nothing."""
    for descriptor, opened in ((1, open_to_append(log)), (0, os.open(os.devnull, os.O_RDONLY))):
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)


def run_torchrun(job: AgentJob, worker_module: str) -> int:
    """Run torchrun to its end and write which workers failed.  Returns 1 if one did, else 0."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    torchrun = job.torchrun
    if "--signals-to-handle" in run.get_args_parser().format_help():
        torchrun = ["--signals-to-handle=SIGQUIT", *torchrun]
    fork_workers(worker_module)
    try:
        run.main(torchrun)
    except ChildFailedError as error:
        replace_json(Path(job.failures_file), describe(error.failures))
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def fork_workers(worker_module: str) -> None:
    """Let torchrun fork this process instead of executing the worker's command.

    A torch whose SubprocessHandler has no such method executes the command: slower, the same bits.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    execute = getattr(SubprocessHandler, "_popen", None)
    if execute is None:
        return
    command = tuple(child_command(worker_module))

    def fork_or_execute(handler: Any, args: tuple[str, ...], env: dict[str, str]) -> Any:
        if args[: len(command)] != command:
            return execute(handler, args, env)
        return ForkedProcess(worker_module, list(args[len(command) :]), env)

    SubprocessHandler._popen = fork_or_execute  # type: ignore[method-assign,assignment]  # noqa: SLF001


class ForkedProcess:
    """A fork of this process that runs a module as `__main__`, in a session of its own.

    Has what torchrun uses of `subprocess.Popen`.
    """

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        """Fork.  environment: all variables of the fork; None: those of this process."""
        self.returncode: int | None = None
        parent = os.getpid()
        started, begun = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with_parent(parent)
                os.setsid()
                os.close(begun)
                os.close(started)
                run_as_main(module, arguments, environment)
            finally:
                os._exit(1)
        os.close(begun)
        os.read(started, 1)  # until the fork leads its own process group: torchrun signals that
        os.close(started)

    def poll(self) -> int | None:
        """The exit code (negative: a signal); None while the process lives."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.  Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if timeout is None and self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        deadline = time.monotonic() + (timeout or 0.0)
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"PID {self.pid}", timeout or 0.0)
            time.sleep(0.02)
        return code


def run_as_main(module: str, arguments: list[str], environment: dict[str, str] | None) -> NoReturn:
    """Run a module in this fork as `python -m` would, and exit.  An error of a probe is written as its answer."""
    for number in STOP_SIGNALS:
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)  # torchrun's handlers are not the fork's
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    sys.argv = [module, *arguments]
    code: Any = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    except BaseException as error:  # noqa: BLE001  a fork must not return into its parent's code
        traceback.print_exc()
        if (answer := boot.answer_descriptor()) is not None:
            boot.report(error, answer)
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def pass_stops_on(stop_file: Path) -> None:
    """Wait for stop signals; each makes the stop file, or is passed to the workers if that fails."""
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
