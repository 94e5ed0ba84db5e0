"""Real faults of real file systems under real workers: full, read-only, gone, and two owners at once."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from llmrun.config.load import load_config
from llmrun.errors import RefusedError, RunFailedError
from llmrun.launch.new_run import prepare_fresh
from llmrun.launch.options import LaunchContext, launch_options
from llmrun.launch.resume import ResumeCommand, prepare_resume
from llmrun.launch.segment import run_segment
from llmrun.run.directory import RunDirectory
from llmrun.run.lock import live_owner
from llmrun.run.record import read_record
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.checkpoint.layout import steps_in
from llmrun.storage.checkpoint.verification import newest_sound, verify_files
from warm.bits import assert_equal_runs
from warm.driver import STEPS, Driver
from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]

LONG = ("T_tokens=40Ki", "checkpoint.every_steps=8", "eval.every_steps=null")
LONG_STEPS = 80
BETWEEN_BYTES = 400_000
"""More than the model's file of the small run (285 kB), less than the optimizer's (570 kB)."""


ALLOWED = ("--allow", "code", "--allow", "environment")
"""What a warm worker imports beside the package is not what a real one does."""


class Meddler:
    """A spectator that does something to the run's disk: each deed so many steps after the one before."""

    def __init__(self, *deeds: tuple[int, Callable[[], object]]) -> None:
        self.deeds = list(deeds)
        self.last_step = 0

    def rows(self, rows) -> None:
        """New numbers."""
        step = rows[-1]["step"]
        if self.deeds and step >= self.last_step + self.deeds[0][0]:
            self.last_step = step
            self.deeds.pop(0)[1]()

    def checkpoint(self, step: int) -> None:
        """A new checkpoint."""

    def warn(self, message: str) -> None:
        """A remark while the run goes on."""

    def stopping(self, message: str) -> None:
        """A stop."""


def train(driver: Driver, pool, runs_dir: Path, meddler: Meddler, *overrides: str):
    """A new run `demo` below `runs_dir`, meddled with."""
    options = launch_options([f"runs_dir={runs_dir}", *overrides], [], None)
    loaded = load_config(driver.config, options.overrides)
    with LauncherStopRequest() as stop:
        prepared = prepare_fresh(loaded, "demo", options, LaunchContext(pool, stop, driver.said.append))
        return run_segment(prepared, pool, stop, meddler)


def resume(driver: Driver, pool, run: RunDirectory, meddler: Meddler | None = None):
    """The next segment of a run anywhere."""
    with LauncherStopRequest() as stop:
        context = LaunchContext(pool, stop, driver.said.append)
        prepared = prepare_resume(run, launch_options([], [], None), ResumeCommand("x"), context)
        return run_segment(prepared, pool, stop, meddler or Meddler())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"this user may not mount: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leave_bytes: int) -> None:
    """Take all room but a little."""
    found = os.statvfs(disk)
    descriptor = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, found.f_bavail * found.f_frsize - leave_bytes)
    os.close(descriptor)


def hidden(run: RunDirectory) -> list[str]:
    """What is half-written."""
    return [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")]


def test_a_disk_that_fills_up_lets_the_run_go_on(driver, pool, small_disk):
    """`continue`: trained to the end, said, the last good checkpoint stays until one fits again."""
    seen = []

    def room_again() -> None:
        seen.append(newest_sound(run.checkpoints)[0].step)
        (small_disk / "ballast").unlink()

    run = RunDirectory(small_disk / "demo")
    meddler = Meddler((12, lambda: fill(small_disk, 500_000)), (30, room_again))
    ended = train(driver, pool, small_disk, meddler, *LONG)

    assert meddler.deeds == []
    assert ended.end.why == "finished", ended.error(run)
    assert any(warning.startswith("no checkpoint at step ") for warning in ended.end.warnings)
    assert 8 <= seen[0] < LONG_STEPS
    assert steps_in(run.checkpoints)[-1] == LONG_STEPS
    assert verify_files(run.checkpoints / f"step-{LONG_STEPS:08d}") == []
    assert hidden(run) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_where_that_is_wished(driver, pool, small_disk):
    """`stop`: exit 4 with the cause; the last good checkpoint is there, and with room the run goes on from it."""
    run = RunDirectory(small_disk / "demo")
    meddler = Meddler((12, lambda: fill(small_disk, 500_000)))
    ended = train(driver, pool, small_disk, meddler, *LONG, "checkpoint.on_disk_full=stop")
    error = ended.error(run)

    assert isinstance(error, RunFailedError)
    assert error.exit_code == 4
    assert "does not fit" in error.message or "No space left on device" in error.message
    newest, damages = newest_sound(run.checkpoints)
    assert damages == []
    assert newest is not None

    with pytest.raises(RefusedError, match=r"checkpoints of .* need .* more, .* are free"):
        resume(driver, pool, run)
    (small_disk / "ballast").unlink()
    assert resume(driver, pool, run).end.why == "finished"


def test_a_file_system_turned_read_only_is_refused(driver, pool, small_disk):
    """Remounted read-only, as the system does after an error of the device: exit 3, nothing was started."""
    train(driver, pool, small_disk, Meddler(), "T_tokens=4Ki")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(RefusedError, match="Read-only file system"):
            resume(driver, pool, RunDirectory(small_disk / "demo"))
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def limit_files(pool, n_bytes: int) -> None:
    """`ulimit -f` for workers that run already."""
    for pid in pool.workers.pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_file_size_limit_is_a_full_disk(driver, pool):
    """Real EFBIG in the middle of a file: the run goes on, saves again, and has the bits of one without."""
    driver.train(pool, "straight", *LONG)
    runs = driver.directory / "runs"
    meddler = Meddler(
        (12, lambda: limit_files(pool, BETWEEN_BYTES)),
        (30, lambda: limit_files(pool, resource.RLIM_INFINITY)),
    )
    ended = train(driver, pool, runs, meddler, *LONG)
    run = driver.run("demo")

    assert ended.end.why == "finished", ended.error(run)
    warning = ended.end.warnings[0]
    assert warning.startswith("no checkpoint at step ")
    assert "File too large" in warning
    assert hidden(run) == []
    assert_equal_runs(driver.run("straight"), run, LONG_STEPS)


@pytest.mark.slow
def test_a_file_size_limit_stops_the_run_where_that_is_wished(driver, pool):
    """`stop`: exit 4 with the file's name; the earlier checkpoint is sound and a resume goes on from it."""
    meddler = Meddler((12, lambda: limit_files(pool, BETWEEN_BYTES)))
    ended = train(driver, pool, driver.directory / "runs", meddler, *LONG, "checkpoint.on_disk_full=stop")
    run = driver.run("demo")
    newest, damages = newest_sound(run.checkpoints)

    assert isinstance(ended.error(run), RunFailedError)
    assert "File too large" in ended.error(run).message
    assert newest is not None
    assert (newest.step % 8, damages, hidden(run)) == (0, [], [])
    assert resume(driver, pool, run).end.why == "finished"


def test_checkpoints_removed_under_a_run_cost_only_themselves(driver, pool):
    """Somebody cleans up: the run goes on, and its next checkpoint is whole."""
    run = driver.run("demo")
    meddler = Meddler((12, lambda: shutil.rmtree(run.checkpoints, ignore_errors=True)))
    ended = train(driver, pool, driver.directory / "runs", meddler, *LONG)

    assert meddler.deeds == []
    assert ended.end.why == "finished", ended.error(run)
    assert steps_in(run.checkpoints)[-1] == LONG_STEPS
    assert verify_files(run.checkpoints / f"step-{LONG_STEPS:08d}") == []


def test_a_run_removed_under_its_workers_is_an_error_in_words(driver, pool):
    """The whole directory is gone: exit 4 that names it, no bug, no process left."""
    run = driver.run("demo")
    meddler = Meddler((12, lambda: shutil.rmtree(run.path, ignore_errors=True)))
    with pytest.raises(RunFailedError) as caught:
        raise train(driver, pool, driver.directory / "runs", meddler, *LONG).error(run)

    assert "\n" not in caught.value.message
    assert all(not Path(f"/proc/{pid}/cmdline").exists() for pid in pool.workers.pids)


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """No new file in a directory: by its permission bits, or, as root, whom they do not bind, by a bind mount."""
    if os.geteuid() != 0:
        directory.chmod(0o555)
        yield
        directory.chmod(0o755)
        return
    mounted = subprocess.run(
        ["mount", "--bind", directory, directory], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"root may not mount here: {mounted.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def llmrun(*arguments: object, **given) -> subprocess.CompletedProcess[str]:
    """The real command."""
    command = [sys.executable, "-m", "llmrun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **given)


def test_a_directory_that_may_not_be_written_is_refused(driver, pool):
    """`checkpoints/` may not be written, real command: exit 3 in words, before anything is started."""
    driver.train(pool, "demo", until=5)
    run = driver.run("demo")
    with unwritable(run.checkpoints):
        found = llmrun("resume", run.path)

    assert found.returncode == 3, found.stderr
    assert re.search("cannot write checkpoints: (Permission denied|Read-only file system)", found.stderr)
    assert "Traceback" not in found.stderr
    assert [segment.segment for segment in read_record(run.record_file).segments] == [1]


@pytest.mark.slow
def test_a_directory_that_turns_unwritable_under_a_run(driver, pool):
    """In the middle of a run: exit 4 with the cause, also with `continue`, as waiting would not help."""
    run = driver.run("demo")
    with ExitStack() as stack:
        meddler = Meddler((12, lambda: stack.enter_context(unwritable(run.checkpoints))))
        ended = train(driver, pool, driver.directory / "runs", meddler, *LONG)
    error = ended.error(run)

    assert isinstance(error, RunFailedError)
    assert re.search("cannot write step-[0-9]{8}: (Permission denied|Read-only file system)", error.message)
    assert newest_sound(run.checkpoints)[1] == []
    assert resume(driver, pool, run).end.why == "finished"


def wait_until(
    holds: Callable[[], bool], process: subprocess.Popen[bytes], words: Path, within_s: float = 120
) -> None:
    """Wait for something that a running command does, which writes its words to a file."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert process.poll() is None, words.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_resumes_at_once(driver, pool):
    """Real commands: the second is refused with the owner's name and PID, exit 3, and so is pruning; the first ends."""
    driver.train(pool, "demo", *LONG, "T_tokens=1Mi", until=20)
    run = driver.run("demo")
    words = driver.directory / "words"
    with words.open("w") as file:
        command = [sys.executable, "-m", "llmrun", "resume", str(run.path), *ALLOWED]
        first = subprocess.Popen(command, stdout=file, stderr=file)
    wait_until(lambda: live_owner(run.lock_file) is not None, first, words)
    second, pruning = llmrun("resume", run.path), llmrun("checkpoints", "prune", run.path, "--keep-last", 1)
    wait_until(lambda: max(steps_in(run.checkpoints)) > 20, first, words)
    third = llmrun("resume", run.path)
    first.send_signal(signal.SIGTERM)

    assert first.wait(60) == 75
    for refused in (second, third, pruning):
        assert refused.returncode == 3
        assert re.search(rf"demo is being trained by \S+ on \S+ \(PID {first.pid}\)", refused.stderr)
    assert live_owner(run.lock_file) is None


@pytest.mark.slow
def test_ulimit_of_the_shell(driver, pool):
    """`ulimit -f` before the real command: trained on to the end and said, exit 4 as the end could not be saved."""
    driver.train(pool, "straight")
    driver.train(pool, "demo", until=5)
    run = driver.run("demo")
    script = f"ulimit -f {BETWEEN_BYTES // 1024}; exec {sys.executable} -m llmrun resume {run.path} {' '.join(ALLOWED)}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=300)

    assert found.returncode == 4, found.stderr
    assert "no checkpoint at step 10: " in found.stderr
    assert "File too large" in found.stderr
    assert "Traceback" not in found.stderr
    assert steps_in(run.checkpoints) == [5]
    assert driver.resume(pool, "demo", allow=("code", "environment")).record.segments[-1].from_step == 5
    assert_equal_runs(driver.run("straight"), run, STEPS)


@pytest.mark.slow
def test_nothing_of_a_run_is_writable_for_everybody(driver):
    """With umask 000, real command: no file or directory of the run lets others write."""
    runs = driver.directory / "runs"
    found = llmrun(
        "train", driver.config, "--run", "demo", "--until", 5, "--set", f"runs_dir={runs}", umask=0
    )
    below = [path for path in (runs, *runs.rglob("*")) if not path.is_symlink()]

    assert found.returncode == 0, found.stderr
    assert len(below) > 20
    assert [str(path) for path in below if path.stat().st_mode & 0o002] == []
