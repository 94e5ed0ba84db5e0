"""Time from the command to the end of the first step: `llmrun train` against torchrun with a bare loop.

    python benchmarks/command_to_first_step.py [ROUNDS] [D…]

For D = 1 and D = 2 on the CPU (one thread a rank, gloo), runs `llmrun train` and benchmarks/bare_loop.py under torchrun
in turn (A B A B …), ROUNDS (default 5) times each, for two steps of a small model in a git repository.  Prints the
medians, their ratio (target: 1.2), the CPU seconds of all processes of a whole command and the load of the machine.
Then one more run of `llmrun train` for each D is watched from outside, and its phases are printed in seconds since
the command: processes from their first to their last sight, files from when they appear.  Run it on a quiet machine:
two ranks, a launcher and an agent share the cores.  On a busy one the CPU seconds say more than the times.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from train_overhead import CONFIG, call, make_place

STEPS = 2
POLL_S = 0.01
PROCESSES = {
    "packages": "freeze",
    "git": "--no-pager",
    "agent": "llmrun.launch.agent",
}
"""Phase -> a word of the command line of its processes.  Probe and workers are forks of the agent."""

FILES = {
    "run directory": "run.json",
    "job sent": "logs/segment-001/torchrun.log",
    "worker forked": "logs/segment-001/rank-0.log",
    "initial state": "ledger.bin",
}
"""Phase -> the file in the run's directory that begins it."""


def variables(directory: Path) -> dict[str, str]:
    """What both sides run with."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GIT_CEILING_DIRECTORIES": str(directory.parent),
    }


def make_repository(directory: Path) -> None:
    """A commit of what `make_place` wrote, without the data."""
    (directory / ".gitignore").write_text("/runs\n/data\n", encoding="utf-8")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=first"]):
        call(["git", *identity, *arguments], directory)


def first_line_at(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[float]:
    """Poll until a file has its first line, then yield that time; yields nothing if the process ends before."""
    while process.poll() is None:
        if path.exists() and path.stat().st_size and b"\n" in path.read_bytes():
            yield time.perf_counter()
            return
        time.sleep(POLL_S)


def start_llmrun(directory: Path, D: int) -> tuple["subprocess.Popen[bytes]", Path, float]:
    """`llmrun train`, its run's directory, and when it was started."""
    name = f"first-{D}-{len(list(directory.glob('runs/*')))}"
    command = [sys.executable, "-m", "llmrun", "train", "overhead.yaml", "--run", name]
    command += ["--until", str(STEPS), f"--set=batch.D={D}"]
    started_s = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=directory, env=variables(directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return process, directory / "runs" / name, started_s


def llmrun_seconds(directory: Path, D: int) -> float:
    """From the command to the first row of metrics.jsonl, which is written at the end of the first step."""
    process, run, started_s = start_llmrun(directory, D)
    found = list(first_line_at(run / "metrics.jsonl", process))
    if process.wait() != 0 or not found:
        sys.exit(f"llmrun train ended with exit code {process.returncode}")
    return found[0] - started_s


def bare_seconds(directory: Path, D: int) -> float:
    """From the command to the end of the first step; perf_counter is one clock for all processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={D}"]
    script = [str(Path(__file__).with_name("bare_loop.py")), "overhead.yaml", str(STEPS)]
    started_s = time.perf_counter()
    out = call([sys.executable, *torchrun, *script], directory)
    return float(out.splitlines()[-1].strip("[]").split(",")[0]) - started_s


@dataclass
class Seconds:
    """What some commands took: until the end of the first step, and CPU time of all their processes."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, run: Callable[[], float]) -> None:
        """Run one command, which returns the seconds until its first step."""
        before_s = cpu_seconds()
        self.wall.append(run())
        self.cpu.append(cpu_seconds() - before_s)


def cpu_seconds() -> float:
    """CPU time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def print_medians(D: int, kind: str, ours: list[float], bare: list[float]) -> None:
    """One line of the table."""
    a, b = statistics.median(ours), statistics.median(bare)
    print(f"{D:>2} {kind:<7}{a:>10.2f}{b:>9.2f}{a / b:>8.2f}{os.getloadavg()[0]:>7.1f}", flush=True)


@dataclass
class Sightings:
    """When each phase was seen first and last, in seconds since the command."""

    started_s: float
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def see(self, phase: str) -> None:
        """The phase goes on now."""
        now_s = time.perf_counter() - self.started_s
        self.seen[phase] = (self.seen.get(phase, (now_s, now_s))[0], now_s)

    def look(self, root: int, run: Path) -> None:
        """All processes below `root`, and the files that there are."""
        for pid in (pid for child in children(root) for pid in (child, *children(child))):
            # A process that was just forked has its parent's command line: look again.
            phase = self.names.get(pid) or phase_of(pid)
            if phase is not None:
                self.names[pid] = phase
                self.see(phase)
        for phase, pattern in FILES.items():
            if phase not in self.seen and next(run.glob(pattern), None) is not None:
                self.see(phase)


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def phase_of(pid: int) -> str | None:
    """The phase that a process belongs to."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return next((phase for phase, word in PROCESSES.items() if word in words), None)


def print_phases(directory: Path, D: int) -> None:
    """One run, watched."""
    process, run, started_s = start_llmrun(directory, D)
    sightings = Sightings(started_s)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        sightings.look(process.pid, run)
        time.sleep(POLL_S)
    for found_s in first_line_at(run / "metrics.jsonl", process):
        sightings.seen["first step"] = (found_s - started_s,) * 2
    process.wait()
    print(f"phases of llmrun train, D = {D}, seconds since the command")
    for phase, (first, last) in sorted(sightings.seen.items(), key=lambda item: item[1]):
        print(f"  {phase:<16}{first:>7.2f}" + (f" … {last:.2f}" if phase in PROCESSES else ""), flush=True)


def main() -> None:
    """Measure each D and print the table, then the phases."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    degrees = [int(word) for word in sys.argv[2:]] or [1, 2]
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary).resolve() / "project"
        directory.mkdir()
        make_place(directory)
        (directory / "overhead.yaml").write_text(CONFIG, encoding="utf-8")
        make_repository(directory)
        print(f"{'D':>2}{'':8}{'llmrun s':>10}{'bare s':>9}{'ratio':>8}{'load':>7}")
        for D in degrees:
            ours, bare = Seconds(), Seconds()
            for _ in range(rounds):
                ours.measure(lambda D=D: llmrun_seconds(directory, D))
                bare.measure(lambda D=D: bare_seconds(directory, D))
            print_medians(D, "time", ours.wall, bare.wall)
            print_medians(D, "CPU", ours.cpu, bare.cpu)
        for D in degrees:
            print_phases(directory, D)


if __name__ == "__main__":
    main()
