"""One process trains a run: a lock with its owner's name and a heartbeat.

`run.lock` is a small JSON file that stays where it is; empty means free.  It is checked and written under
`flock`, so that of two processes that start at once, or that take a dead owner's lock over at once, exactly
one gets it.  The heartbeat is the file's modification time, touched every 10 s.

An owner on this host is judged by its process (PID and start time), so that one that is only suspended
keeps its lock.  An owner elsewhere is judged by its heartbeat: older than 120 s, it is taken over, and an
owner that wakes up later finds another token in the file and knows that it has lost (`RunLock.lost`).
"""

import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Self

from llmrun.durable import is_shared, make_private
from llmrun.errors import RefusedError
from llmrun.machine import batch_job_id, boot_id, host_name, process_start, user_name

LOCK_FORMAT = "llmrun-lock/1"
BEAT_S = 10.0
STALE_AFTER_S = 120.0


@dataclass(frozen=True)
class Owner:
    """The process that trains a run.

    token:          told apart from every other acquisition.
    process_start:  clock ticks since boot; with the PID it names the process for ever.
    boot, pid_namespace: where PID and process_start mean something.
    since:          local time, ISO 8601.
    """

    token: str
    host: str
    user: str
    pid: int
    process_start: int
    boot: str | None
    pid_namespace: str | None
    job_id: str | None
    since: str

    def describe(self) -> str:
        """The owner in one phrase: `alice on node7 (PID 4242, batch job 99) since 2026-11-24 10:00:00`."""
        job = f", batch job {self.job_id}" if self.job_id else ""
        since = datetime.fromisoformat(self.since)
        return f"{self.user} on {self.host} (PID {self.pid}{job}) since {since:%Y-%m-%d %H:%M:%S}"


def this_process() -> Owner:
    """The calling process as an owner, with a new token."""
    start = process_start(os.getpid())
    assert start is not None
    return Owner(
        token=secrets.token_hex(16),
        host=host_name(),
        user=user_name(),
        pid=os.getpid(),
        process_start=start,
        boot=boot_id(),
        pid_namespace=pid_namespace(),
        job_id=batch_job_id(),
        since=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def pid_namespace() -> str | None:
    """The name of the space in which our PIDs are unique; None where the kernel does not tell."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def why_dead(owner: Owner, heartbeat_age_s: float, stale_after_s: float = STALE_AFTER_S) -> str | None:
    """Why an owner no longer holds its lock, as a phrase; None where it still does."""
    if owner.host == host_name() and owner.boot != boot_id():
        return "the machine has been started anew since"
    if (owner.host, owner.boot, owner.pid_namespace) == (host_name(), boot_id(), pid_namespace()):
        alive = process_start(owner.pid) == owner.process_start
        return None if alive else "that process is gone"
    if heartbeat_age_s > stale_after_s:
        return f"its heartbeat is {heartbeat_age_s:.0f} s old, more than {stale_after_s:.0f} s"
    return None


def live_owner(path: Path, now_s: float | None = None) -> Owner | None:
    """Who trains the run now; None where nobody does.

    now_s: by the clock that stamps the file (`file_system_time`); for display that of this host will do.
    """
    try:
        with path.open("rb") as file:
            owner = _parse(file.read())
            age_s = (time.time() if now_s is None else now_s) - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    return owner if owner is not None and why_dead(owner, age_s) is None else None


class RunLock:
    """A held lock.  Use as a context manager, or call `release`.

    taken_over: what to tell the user where a dead owner's lock was taken over; else None.
    """

    def __init__(
        self, path: Path, descriptor: int, owner: Owner, taken_over: str | None, beat_s: float
    ) -> None:
        self.path = path
        self.owner = owner
        self.taken_over = taken_over
        self._descriptor = descriptor
        self._beat_s = beat_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="llmrun-lock", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(cls, path: Path, beat_s: float = BEAT_S, stale_after_s: float = STALE_AFTER_S) -> Self:
        """Take the lock.  Raises RefusedError with the owner's name where somebody holds it."""
        descriptor = _open_own(path)
        try:
            with guarded(descriptor):
                previous = _parse(os.pread(descriptor, 65536, 0))
                taken_over = _judge(path, descriptor, previous, stale_after_s)
                owner = this_process()
                _write(descriptor, json.dumps({"format": LOCK_FORMAT, **asdict(owner)}, indent=2).encode())
        except OSError as error:
            os.close(descriptor)
            raise _cannot_write(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, owner, taken_over, beat_s)

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lock over (this one was taken for dead)."""
        return self._lost.is_set()

    def _beat(self) -> None:
        """Touch the file until released or lost.  A file system that hiccups is tried again."""
        while not self._stop.wait(self._beat_s):
            try:
                with guarded(self._descriptor):
                    if not self._ours():
                        self._lost.set()
                        return
                    os.utime(self._descriptor)
            except OSError:
                continue

    def _ours(self) -> bool:
        """Whether the file still names this acquisition."""
        held = _parse(os.pread(self._descriptor, 65536, 0))
        return held is not None and held.token == self.owner.token

    def release(self) -> None:
        """Free the lock, unless it is somebody else's by now.  Calling it twice is harmless."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            with guarded(self._descriptor):
                if self._ours():
                    os.ftruncate(self._descriptor, 0)
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def guarded(descriptor: int) -> Iterator[None]:
    """Nobody else checks or writes the file meanwhile.

    On a file system without flock the check and the write are not one step; a few milliseconds remain in
    which two processes could both find a dead owner.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _open_own(path: Path) -> int:
    """A descriptor of a lock file that no other run's directory shares.  Raises RefusedError.

    A shared one is replaced by a private copy under the shared one's `flock`, so that of two processes that find
    it shared one replaces it, and the other opens the new one.
    """
    try:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                with guarded(descriptor):
                    same = os.path.samestat(os.fstat(descriptor), path.stat())
                    if same and not is_shared(path):
                        return descriptor
                    if same:
                        make_private(path)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _judge(path: Path, descriptor: int, previous: Owner | None, stale_after_s: float) -> str | None:
    """What is to be said about the owner before us.  Raises RefusedError where it is alive."""
    if previous is None:
        return None
    age_s = file_system_time(path.parent) - os.fstat(descriptor).st_mtime
    dead = why_dead(previous, age_s, stale_after_s)
    if dead is None:
        raise RefusedError(
            f"{path.parent.resolve().name} is being trained by {previous.describe()}",
            where=str(path),
            hints=[f"wait for it, or stop it on {previous.host}: `kill {previous.pid}`"],
        )
    return f"took over the lock of {previous.describe()}: {dead}"


def file_system_time(directory: Path) -> float:
    """Now, by the clock that stamps files in `directory`: heartbeats may come from another clock than ours."""
    probe = directory / f".tmp-clock-{secrets.token_hex(8)}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink()


def _write(descriptor: int, content: bytes) -> None:
    """Replace the file's content in place: its inode is what flock holds.  Raises OSError.

    Cut afterwards: room that the file has already needs no free space.
    """
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
    os.ftruncate(descriptor, len(content))


def _cannot_write(path: Path, error: OSError) -> RefusedError:
    return RefusedError(f"{path} cannot be written: {error.strerror}")


def _parse(content: bytes) -> Owner | None:
    """The owner that a lock file names; None for an empty or torn one (it was torn by a crash)."""
    try:
        document = json.loads(content)
        if document["format"] != LOCK_FORMAT:
            return None
        return Owner(**{field.name: document[field.name] for field in fields(Owner)})
    except (ValueError, KeyError, TypeError):
        return None
