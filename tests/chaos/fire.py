"""One run under fire: killed again and again, resumed each time, looked at after every kill."""

import json
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.checks import (
    Finding,
    Truth,
    check_checkpoints,
    check_end,
    recomputed_steps,
    wait_for_descendants,
)
from chaos.hooks import Reports
from chaos.launcher import Task, be_launcher
from chaos.plan import Kill
from llmrun.run.directory import RunDirectory

HANGS_AFTER_S = 120.0
LINGERS_S = 1.0
"""Without a word this long after the launcher's end, processes are waited for by other means."""


@dataclass
class Tally:
    """What happened, added up over runs."""

    runs: int = 0
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    left_hidden: int = 0
    resumes: int = 0
    committed: int = 0
    looked_at: int = 0
    recomputed: int = 0
    gone_s_max: float = 0.0
    D: Counter[int] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Seen:
    """One segment, as its events tell it."""

    events: list[dict[str, Any]]
    exit_code: int
    struck: bool
    gone_s: float

    def all(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [found for found in self.events if found["event"] == event]


Play = Callable[[Task, Path], Seen]
"""Plays one segment: `play` below starts it warm, that of chaos/torchrun.py through the command line."""


class Run:
    """One run under fire."""

    def __init__(self, ground: Path, name: str, truth: Truth, tally: Tally, play: Play) -> None:
        self.run = RunDirectory(ground / "runs" / name)
        self.truth, self.tally = truth, tally
        self._config, self._log, self._play = (
            ground / "config.yaml",
            ground / f"{name}.log",
            play,
        )
        self._on_disk: list[int] = []

    def segment(self, kill: Kill | None, *, is_torn: bool = False) -> bool:
        """One segment, killed as told.  Returns whether the run goes on.  Raises Finding."""
        start = str(self._on_disk[-2]) if kill and kill.goes_back and len(self._on_disk) > 1 else None
        sets = () if kill is None else (f"strategy={kill.strategy}", f"data.num_workers={kill.num_workers}")
        D = 1 if kill is None else kill.D
        task = Task(self.run, self._config, sets, D, kill, start, is_torn=is_torn)
        seen = self._play(task, self._log)
        self.tally.gone_s_max = max(self.tally.gone_s_max, seen.gone_s)
        self._judge(kill, seen, start)
        return self._count(kill, seen)

    def _judge(self, kill: Kill | None, seen: Seen, start: str | None) -> None:
        """Nothing ended otherwise than it should, nothing is unsound, nothing committed is gone."""
        for error in seen.all("error"):
            raise Finding("ending", f"the launcher ended with {error['message']}")
        before = self._on_disk
        for started in seen.all("started"):
            expected = int(start) if start else max(before, default=0)
            if started["from_step"] != expected:
                raise Finding(
                    "lost",
                    f"the segment started from step {started['from_step']}, checkpoint {expected} was there",
                )
            if started["hidden"]:
                raise Finding(
                    "leftover", f"left over from before, when the ranks started: {started['hidden']}"
                )
        self._on_disk = check_checkpoints(self.run, self.truth)
        committed = [event["step"] for event in seen.all("committed")]
        newest = max(self._on_disk, default=0)
        lowest = max([*committed, 0 if start else max(before, default=0)])
        if newest < lowest:
            raise Finding("lost", f"checkpoint {lowest} was committed, the newest on disk is {newest}")
        for ended in seen.all("ended"):
            if ended["why"] != ("failed" if seen.struck else "finished"):
                raise Finding("ending", f"the segment ended as {ended['why']}: {ended['message']}")
        if not seen.struck and seen.exit_code != 0:
            raise Finding(
                "ending", f"nothing was killed, and the launcher ended with exit code {seen.exit_code}"
            )

    def _count(self, kill: Kill | None, seen: Seen) -> bool:
        """Add a segment to the tally; returns whether it was killed."""
        tally = self.tally
        tally.resumes += any(event["from_step"] > 0 for event in seen.all("started"))
        tally.committed += len({event["step"] for event in seen.all("committed")})
        tally.looked_at += len(self._on_disk)
        if not seen.struck or kill is None:
            return False
        tally.kills[kill.victim, kill.moment] += 1
        tally.D[kill.D] += 1
        tally.left_hidden += any(self.run.checkpoints.glob(".tmp-*"))
        for struck in seen.all("struck")[:1]:
            tally.places[struck["where"] if kill.moment != "starting" else f"launcher {struck['where']}"] += 1
        return True

    def finish(self) -> None:
        """The last word: the run is done and equals the straight one."""
        check_end(self.run, self.truth)
        self.tally.recomputed += recomputed_steps(self.run)
        self.tally.runs += 1


def play(task: Task, log: Path) -> Seen:
    """Fork a launcher, follow its events until it is gone, kill where the clock says so."""
    reading, writing = os.pipe()
    harness = os.getpid()
    launcher = os.fork()
    if launcher == 0:
        os.close(reading)
        be_launcher(task, Reports(writing), harness, log)
    os.close(writing)
    events: list[dict[str, Any]] = []
    struck = False
    for event in events_of(reading, launcher):
        events.append(event)
        if event["event"] == "started" and task.kill and task.kill.moment in ("clock", "loading"):
            struck = strike_from_outside(task, event["pids"], launcher)
    _, status = os.waitpid(launcher, 0)
    gone_s = wait_for_descendants()
    events += parsed(drained(reading))
    os.close(reading)
    struck |= any(event["event"] == "struck" for event in events)
    finished = any(event["event"] == "ended" and event["why"] == "finished" for event in events)
    return Seen(events, os.waitstatus_to_exitcode(status), struck and not finished, gone_s)


def events_of(descriptor: int, launcher: int) -> Iterator[dict[str, Any]]:
    """Events until the launcher is gone.  Raises Finding where nothing comes for two minutes."""
    rest = b""
    ended = os.pidfd_open(launcher)
    try:
        while ready := select.select([descriptor, ended], [], [], HANGS_AFTER_S)[0]:
            if descriptor in ready:
                *lines, rest = (rest + os.read(descriptor, 65536)).split(b"\n")
                yield from parsed(b"\n".join(lines))
            if ended in ready:
                return
    finally:
        os.close(ended)
    raise Finding("ending", f"nothing happened for {HANGS_AFTER_S:.0f} s")


def drained(descriptor: int) -> bytes:
    """What is left in a pipe that nobody can write to any more; events are written whole."""
    found = b""
    while block := os.read(descriptor, 65536):
        found += block
    return found


def parsed(lines: bytes) -> list[dict[str, Any]]:
    """Events, one a line."""
    return [json.loads(line) for line in lines.splitlines()]


def strike_from_outside(task: Task, pids: list[int], launcher: int) -> bool:
    """SIGKILL at a moment of the clock; returns whether there was anybody left to kill."""
    kill = task.kill
    assert kill is not None
    if kill.moment == "clock" and not first_step_within(task.run, HANGS_AFTER_S, launcher):
        return False
    time.sleep(kill.delay_s)
    try:
        if kill.victim == "launcher":
            os.kill(launcher, signal.SIGKILL)
        elif kill.victim == "rank":
            os.kill(pids[kill.rank], signal.SIGKILL)
        else:
            os.killpg(pids[0], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def first_step_within(run: RunDirectory, seconds: float, launcher: int) -> bool:
    """Wait until metrics.jsonl grows; False where the launcher ends before."""
    size = size_of(run.metrics_file)
    deadline = time.monotonic() + seconds
    while size_of(run.metrics_file) == size:
        if time.monotonic() > deadline:
            raise Finding("ending", f"no step within {seconds:.0f} s")
        if os.waitid(os.P_PID, launcher, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    return True


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it is not there."""
    return path.stat().st_size if path.exists() else 0
