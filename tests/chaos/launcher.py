"""A launcher and its ranks, forked from a process that has torch imported: what `llmrun train --run` does, warm.

The launcher runs the launcher's own code (prepare, watch, record); only the starter is other: ranks are forks that
run what `python -m llmrun.runtime.worker` runs.  They are children of the launcher and die with it, as under torchrun.
"""

import os
import signal
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chaos.hooks import (
    Reports,
    Trigger,
    at_point,
    before_disk_operations,
    strike_group,
    strike_process,
    tear_commits,
    tell_commits,
)
from chaos.plan import Kill, V
from llmrun.config.load import load_config
from llmrun.launch import preflight
from llmrun.launch.new_run import prepare_fresh
from llmrun.launch.options import LaunchContext, launch_options
from llmrun.launch.prepared_segment import NothingToDo, PreparedSegment
from llmrun.launch.resume import ResumeCommand, prepare_resume
from llmrun.launch.segment import run_segment
from llmrun.launch.torchrun import Probe, WorkerJob
from llmrun.machine import die_with_parent
from llmrun.run.directory import RunDirectory
from llmrun.run.signals import LauncherStopRequest
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime import worker
from llmrun.runtime.probe import probe
from warm.driver import Silent
from warm.packages import QuickQuestion
from warm.pool import free_port


@dataclass(frozen=True)
class Task:
    """What one launcher is to do.

    kill: how it ends; None: by itself.  start: `newest`, or the step to resume from.
    is_torn: tear every checkpoint that gets its name, to see that it is found.
    """

    run: RunDirectory
    config: Path
    overrides: tuple[str, ...]
    D: int
    kill: Kill | None = None
    start: str | None = None
    is_torn: bool = False


@cache
def probed() -> Probe:
    """What a rank would find here: asked once, before anything is forked."""
    found = probe("cpu")
    return Probe(found["environment"], found["recorded"], found["source_files"])


class Ranks:
    """The ranks of one segment: implements `llmrun.launch.torchrun.Workers`."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._codes: dict[int, int] = {}

    def poll(self) -> int | None:
        """None while any rank lives; one that failed takes the others with it, as under torchrun."""
        for pid in self._pids:
            if pid not in self._codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
        failed = [code for code in self._codes.values() if code]
        if failed:
            self.kill()
            return failed[0]
        return 0 if len(self._codes) == len(self._pids) else None

    def terminate(self) -> None:
        """SIGTERM to all ranks."""
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL all ranks, and wait for them."""
        for pid in self._pids:
            if pid not in self._codes:
                os.kill(pid, signal.SIGKILL)
                self._codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class ForkStarter:
    """Implements `llmrun.launch.torchrun.ProcessBackend`."""

    def __init__(self, task: Task, reports: Reports) -> None:
        self._task, self._reports = task, reports

    def probe(self, device, environment, check) -> Probe:
        """See `ProcessBackend.probe`."""
        return probed()

    def start(self, job: WorkerJob) -> Ranks:
        """See `ProcessBackend.start`.  All ranks stand in one process group, so that one signal reaches them all."""
        worker_spec = WorkerSpec.read(job.run.worker_spec_file(job.segment))
        hidden = sorted(path.name for path in job.run.checkpoints.glob(".tmp-*"))
        port, launcher = free_port(), os.getpid()
        pids: list[int] = []
        for rank in range(job.D):
            pid = os.fork()
            if pid == 0:
                self._be_rank(job, rank, port, launcher, group=pids[0] if pids else 0)
            pids.append(pid)
            os.setpgid(pid, pids[0])
        self._reports.notify(event="started", pids=pids, from_step=worker_spec.from_step, hidden=hidden)
        return Ranks(pids)

    def _be_rank(self, job: WorkerJob, rank: int, port: int, launcher: int, group: int) -> None:
        """One rank, from fork to exit."""
        code = 70
        try:
            die_with_parent(launcher)
            os.setpgid(0, group)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            worker.log_to(job.run.rank_log(job.segment, rank))
            self._arm(job, rank, launcher)
            outcome, code = worker.work(job.run, job.segment, rank)
            outcome.write(job.run.outcome_file(job.segment, rank))
        except BaseException:  # noqa: BLE001  a fork may not return into the harness's code, whatever happens
            traceback.print_exc()
        finally:
            os._exit(code)

    def _arm(self, job: WorkerJob, rank: int, launcher: int) -> None:
        """Let the drawn moment come in the rank that it was drawn for."""
        if self._task.is_torn:
            tear_commits()
        tell_commits(self._reports)
        kill = self._task.kill
        if kill is None or kill.rank != rank or kill.moment not in ("saving", "step"):
            return
        strike = {
            "rank": strike_process(os.getpid()),
            "ranks": strike_group(os.getpgid(0)),
            "launcher": strike_process(launcher),
        }[kill.victim]
        trigger = Trigger(kill.nth, strike, self._reports)
        if kill.moment == "saving":
            before_disk_operations(job.run.checkpoints, trigger)
        else:
            at_point(kill.point, trigger)


def be_launcher(task: Task, reports: Reports, harness: int, log: Path) -> None:
    """A forked process becomes the launcher of one segment, and never returns."""
    code = 70
    try:
        os.setsid()
        die_with_parent(harness)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        preflight.PackageQuestion = QuickQuestion
        if task.kill is not None and task.kill.moment == "starting":
            runs = task.run.path.parent
            before_disk_operations(runs, Trigger(task.kill.nth, strike_process(os.getpid()), reports))
        launch(task, reports)
        code = 0
    except BaseException as error:  # noqa: BLE001  a fork may not return into the harness's code
        reports.notify(event="error", message=f"{type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        os._exit(code)


def launch(task: Task, reports: Reports) -> None:
    """Start the run, or resume it, and tell how the segment ended."""
    backend = ForkStarter(task, reports)
    with LauncherStopRequest() as stop:
        prepared = prepare(task, backend, stop)
        if isinstance(prepared, NothingToDo):
            reports.notify(event="nothing", message=prepared.message)
            return
        ended = run_segment(prepared, backend, stop, Silent())
    error = ended.error(task.run)
    message = None if error is None else error.message
    reports.notify(event="ended", why=ended.end.why, message=message, remarks=list(ended.end.warnings))


def prepare(task: Task, backend: ForkStarter, stop: LauncherStopRequest) -> PreparedSegment | NothingToDo:
    """What `llmrun train CONFIG --run NAME` does for a new run, `llmrun resume RUN` for one that exists."""
    sets = [f"runs_dir={task.run.path.parent}", *task.overrides]
    if not task.run.is_run:
        D = task.D if V % task.D == 0 else task.D + 1  # a fresh config has a whole A
        options = launch_options([*sets, f"batch.D={D}"], [], None)
        loaded = load_config(task.config, options.overrides)
        return prepare_fresh(loaded, task.run.name, options, LaunchContext(backend, stop, print))
    options = launch_options(sets[1:], [], None, task.D, task.start)
    return prepare_resume(
        task.run, options, ResumeCommand("llmrun resume"), LaunchContext(backend, stop, print)
    )
