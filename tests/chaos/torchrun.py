"""A segment through the command line and real torchrun, nothing in it patched: killed from outside only."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from chaos.checks import Finding, wait_for_descendants
from chaos.fire import HANGS_AFTER_S, Seen, size_of
from chaos.launcher import Task
from chaos.plan import Kill, V
from llmrun.run.directory import RunDirectory
from llmrun.run.record import read_record
from llmrun.run.worker_spec import WorkerSpec
from llmrun.storage.checkpoint.layout import steps_in

POLL_S = 0.001


def command_of(task: Task) -> list[str]:
    """`llmrun train CONFIG --run NAME` for a new run, `llmrun resume RUN` for one that exists."""
    sets = [word for override in task.overrides for word in ("--set", override)]
    llmrun = [sys.executable, "-m", "llmrun"]
    if not task.run.is_run:
        D = task.D if V % task.D == 0 else task.D + 1  # a fresh config has a whole A
        sets += ["--set", f"batch.D={D}", "--set", f"runs_dir={task.run.path.parent}"]
        return [*llmrun, "train", str(task.config), "--run", task.run.name, *sets]
    start = ["--from", task.start] if task.start else []
    return [*llmrun, "resume", str(task.run.path), "--D", str(task.D), *start, *sets]


def play(task: Task, log: Path) -> Seen:
    """Run one segment, kill at the drawn moment, and say what was seen."""
    segment = 1 + (len(read_record(task.run.record_file).segments) if task.run.is_run else 0)
    with log.open("ab") as words:
        launcher = subprocess.Popen(
            command_of(task),
            cwd=task.config.parent,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    with ended_at_last(launcher):
        watch = Watched(task.run, segment, launcher)
        struck = task.kill is not None and watch.until(task.kill) and strike(task.kill, launcher)
        try:
            exit_code = launcher.wait(HANGS_AFTER_S)
        except subprocess.TimeoutExpired:
            raise Finding("ending", f"the launcher is still there after {HANGS_AFTER_S:.0f} s") from None
    gone_s = wait_for_descendants()
    events = watch.events()
    whys = [event["why"] for event in events if event["event"] == "ended"]
    return Seen(events, exit_code, struck and "finished" not in whys, gone_s)


@contextmanager
def ended_at_last(launcher: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens here, the launcher does not stay."""
    try:
        yield
    finally:
        launcher.kill()
        launcher.wait()


class Watched:
    """What the files of a run tell about the segment that is under way."""

    def __init__(self, run: RunDirectory, segment: int, launcher: subprocess.Popen[bytes]) -> None:
        self._run, self._segment, self._launcher = run, segment, launcher
        self._committed: set[int] = set()
        self._metrics_bytes = 0
        self._entries: set[Path] = set()
        self._hidden: list[str] = []

    def until(self, kill: Kill) -> bool:
        """Wait for the moment of a kill; False where the launcher ends before."""
        if not self._wait(lambda: self._run.worker_spec_file(self._segment).exists()):
            return False
        own = f"-segment-{self._segment:03d}"
        found = [path.name for path in self._run.checkpoints.glob(".tmp-*")]
        self._hidden = [name for name in found if not name.endswith(own)]
        self._metrics_bytes = size_of(self._run.metrics_file)
        if kill.moment == "saving" and not self._wait(lambda: self._new_entries() >= kill.nth):
            return False
        if kill.moment == "clock" and not self._wait(self._has_stepped):
            return False
        if kill.moment == "loading" and not self._wait(lambda: victims(kill, self._launcher) != []):
            return False
        if kill.moment != "saving":
            time.sleep(kill.delay_s)
        return self._launcher.poll() is None

    def _wait(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + HANGS_AFTER_S
        while not condition():
            if self._launcher.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise Finding("ending", f"nothing happened for {HANGS_AFTER_S:.0f} s")
            self._committed.update(steps_in(self._run.checkpoints))
            time.sleep(POLL_S)
        return True

    def _new_entries(self) -> int:
        """Names of files seen so far in hidden directories of saves."""
        with suppress(FileNotFoundError):  # a save may be committed while it is looked at
            for directory in self._run.checkpoints.glob(".tmp-step-*"):
                self._entries.update(directory.iterdir())
        return len(self._entries)

    def _has_stepped(self) -> bool:
        return size_of(self._run.metrics_file) > self._metrics_bytes

    def events(self) -> list[dict[str, Any]]:
        """The segment in the harness's words, when it is over."""
        found: list[dict[str, Any]] = []
        worker_spec = self._run.worker_spec_file(self._segment)
        if worker_spec.exists():
            from_step = WorkerSpec.read(worker_spec).from_step
            found.append({"event": "started", "from_step": from_step, "hidden": self._hidden})
        if self._run.is_run and len(segments := read_record(self._run.record_file).segments) == self._segment:
            last = segments[-1]
            fresh = set(steps_in(self._run.checkpoints)) | self._committed
            found += [{"event": "committed", "step": step} for step in sorted(fresh) if step > last.from_step]
            if last.why is not None:
                found.append({"event": "ended", "why": last.why, "message": f"at step {last.to_step}"})
        return found


def strike(kill: Kill, launcher: subprocess.Popen[bytes]) -> bool:
    """SIGKILL; returns whether there was anybody left to kill."""
    struck = False
    for process in victims(kill, launcher):
        with suppress(psutil.NoSuchProcess):
            process.kill()
            struck = True
    return struck


def victims(kill: Kill, launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Who is to die, of those that are there."""
    try:
        own = psutil.Process(launcher.pid)
        below = own.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    if kill.victim == "launcher":
        return [own]
    found = []
    for process in below:
        with suppress(psutil.Error, OSError):
            if is_meant(process, kill):
                found.append(process)
    return found


def is_meant(process: psutil.Process, kill: Kill) -> bool:
    """Whether a process below the launcher is one that the kill is for."""
    if not is_of_agent(process):
        return False
    log = Path(f"/proc/{process.pid}/fd/1").readlink().name
    if kill.victim == "agent":
        return not log.startswith("rank-")
    if kill.victim == "ranks":
        return log.startswith("rank-")
    return log == f"rank-{kill.rank}.log" and not is_loader(process)


def is_of_agent(process: psutil.Process) -> bool:
    """Whether a process is the agent, or a fork of it: ranks and loader workers show its command line."""
    return "llmrun.launch.agent" in process.cmdline()


def is_loader(process: psutil.Process) -> bool:
    """Loader workers are forks of a rank, and ranks of the agent, which is a child of the launcher."""
    parent = process.parent()
    above = None if parent is None else parent.parent()
    return above is not None and is_of_agent(above)
