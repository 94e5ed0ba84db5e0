"""The lock of a run, so that only one process trains it: a file with its owner and a heartbeat.

`run.lock` is a small JSON file that is never removed; empty means free.  It is checked and written under `flock`, so
that of two processes that start at once, or take over a dead owner's lock at once, exactly one gets it.  The heartbeat is the file's modification time, touched every 10 s.

Whether an owner is alive is decided by its process (PID and start time) if that can be looked up from here (same host,
boot and PID namespace), so that a suspended process keeps its lock; otherwise by its heartbeat.  A timestamp alone is
not trusted: a heartbeat older than 120 s, or in the future, is watched for 25 s, and the lock is taken over only if it
does not change.

An owner that is resumed later finds another token in the file (`RunLock.is_lost`).  Its workers have the token in their
WorkerSpec and check it themselves (`Fence`).
"""

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Self

from llmrun.errors import RefusedError, RunFailedError
from llmrun.machine import (
    INITIAL_PID_NAMESPACE,
    ProcessIdentity,
    batch_job_id,
    boot_id,
    host_name,
    this_process_identity,
    user_name,
)
from llmrun.storage.durable import file_system_time, is_shared, make_private
from llmrun.text import command

__all__ = ["Fence", "Owner", "RunLock", "file_system_time", "is_left_behind", "live_owner", "this_process"]

LOCK_FORMAT = "llmrun-lock/1"
BEAT_S = 10.0
STALE_AFTER_S = 120.0
WATCH_S = 25.0
"""How long a heartbeat is watched: a live owner beats twice in this time."""

GRACE_S = 3.0
"""Wait after taking over a lock from another host: its owner's workers notice within this time (`Fence`)."""

GONE_AFTER_S = 24 * 3600.0
"""An owner on another host counts as dead without watching if its heartbeat is a day from the present."""

POLL_S = 0.1
FLOCK_WITHIN_S = 30.0
FENCE_EVERY_S = 1.0
TORN_READS = 5
LOCK_BYTES_MAX = 65536


@dataclass(frozen=True)
class Owner:
    """The process that trains a run.

    token:          unique for each acquisition.
    process_start:  clock ticks since boot; identifies the process together with the PID.
    boot, pid_namespace: in which PID and process_start are valid.
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

    @property
    def process(self) -> ProcessIdentity:
        """The owner's process."""
        return ProcessIdentity(self.host, self.boot, self.pid_namespace, self.pid, self.process_start)

    @property
    def stop_hint(self) -> str:
        """A hint how to stop the owner; with its PID only if that is valid where the user would type it."""
        if self.process.is_alive or self.pid_namespace in (None, INITIAL_PID_NAMESPACE):
            return f"stop it on {self.host}: `kill {self.pid}`"
        return f"stop it in its container on {self.host}"

    def describe(self) -> str:
        """The owner in one phrase: `alice on node7 (PID 4242, batch job 99) since 2026-11-24 10:00:00`."""
        job = f", batch job {self.job_id}" if self.job_id else ""
        since = datetime.fromisoformat(self.since)
        return f"{self.user} on {self.host} (PID {self.pid}{job}) since {since:%Y-%m-%d %H:%M:%S}"


def this_process() -> Owner:
    """The calling process as an owner, with a new token."""
    process = this_process_identity()
    return Owner(
        token=secrets.token_hex(16),
        host=process.host,
        user=user_name(),
        pid=process.pid,
        process_start=process.start,
        boot=process.boot,
        pid_namespace=process.pid_namespace,
        job_id=batch_job_id(),
        since=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def live_owner(path: Path, now_s: float | None = None, stale_after_s: float = STALE_AFTER_S) -> Owner | None:
    """The process that trains the run now, decided without watching its heartbeat; None if there is none.

    now_s: by the clock of the file system (`file_system_time`); None: by that of this host, which will do for display.
    """
    try:
        with path.open("rb") as file:
            owner = _parse(file.read())
            age_s = (time.time() if now_s is None else now_s) - os.fstat(file.fileno()).st_mtime
    except OSError:
        return None
    if owner is None:
        return None
    alive = owner.process.is_alive
    return owner if alive or (alive is None and abs(age_s) <= stale_after_s) else None


def is_left_behind(path: Path, now_s: float) -> bool:
    """Whether a lock file names an owner that is certainly dead, so that its files may be removed.

    now_s: by the clock of the file system.
    """
    return path.stat().st_size > 0 and live_owner(path, now_s, GONE_AFTER_S) is None


class RunLock:
    """A held lock.  Use as a context manager, or call `release`.

    taken_over: a message for the user if a dead owner's lock was taken over, else None.
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
    def acquire(
        cls,
        path: Path,
        beat_s: float = BEAT_S,
        notify: Callable[[str], None] = lambda _: None,
        watch_s: float = WATCH_S,
    ) -> Self:
        """Take the lock.

        notify: called with a message if a heartbeat has to be watched, which takes `watch_s` seconds.
        Raises RefusedError with the owner if the lock is held.
        """
        descriptor = _open_own(path)
        try:
            owner, taken_over = _take(path, descriptor, notify, watch_s)
        except OSError as error:
            os.close(descriptor)
            raise _cannot_write(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, owner, taken_over, beat_s)

    @property
    def lost(self) -> bool:
        """Whether another process had taken over the lock at the last heartbeat, believing this one dead."""
        return self._lost.is_set()

    @property
    def is_lost(self) -> bool:
        """`lost`, checked now: for use before something is written that only the owner may write."""
        try:
            if not self._lost.is_set() and not self._ours():
                self._lost.set()
        except OSError:  # a transient error: the next beat tries again
            return self._lost.is_set()
        return self._lost.is_set()

    def refuse_if_lost(self) -> None:
        """Raise RefusedError if another process has taken over the lock."""
        if self.is_lost:
            raise RefusedError(
                f"another process took over {self.path.parent.resolve().name} while this one was suspended",
                where=str(self.path),
            )

    def _beat(self) -> None:
        """Touch the file until the lock is released or lost; transient errors are retried."""
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
        try:
            content = self.path.read_bytes()  # by its path, where there may be another file by now
        except FileNotFoundError:  # the run's directory was moved
            content = os.pread(self._descriptor, LOCK_BYTES_MAX, 0)
        held = _parse(content)
        return held is not None and held.token == self.owner.token

    def release(self) -> None:
        """Free the lock, unless another process holds it by now.  May be called twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            with (
                suppress(OSError),
                guarded(self._descriptor),
            ):  # a lock that is left is that of a dead process
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
    """Hold the file's flock.  Raises TimeoutError if another process holds it for 30 s.

    On a file system without flock the block runs unprotected: for a few milliseconds two processes could both find a
    dead owner.
    """
    try:
        _flock(descriptor)
    except TimeoutError:
        raise
    except OSError:
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _open_own(path: Path) -> int:
    """A descriptor of a lock file that no other run's directory shares by links.  Raises RefusedError.

    A shared file is replaced by a copy under its `flock`, so that of two processes that find it shared one replaces it
    and the other opens the copy.
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


def _flock(descriptor: int) -> None:
    """Take the flock, polling so that signal handlers run in between."""
    deadline = time.monotonic() + FLOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"another process has held its flock for {FLOCK_WITHIN_S:.0f} s"
                raise TimeoutError(errno.ETIMEDOUT, message) from None
            time.sleep(POLL_S / 10)
        else:
            return


def _take(
    path: Path, descriptor: int, notify: Callable[[str], None], watch_s: float
) -> tuple[Owner, str | None]:
    """Write this process into the file.  Returns it as the owner, and a message if it took over a lock.

    The flock is not held while a heartbeat is watched, because the owner needs it to beat.
    """
    still: tuple[int, bytes] | None = None
    while True:
        with guarded(descriptor):
            seen = _heartbeat(path)
            previous = _parse(seen[1])
            dead = None if previous is None else _why_dead(path, previous, seen, still, watch_s)
            if previous is None or dead is not None:
                owner = this_process()
                _write(descriptor, json.dumps({"format": LOCK_FORMAT, **asdict(owner)}, indent=2).encode())
                break
        notify(f"watching the heartbeat of {previous.describe()} for {watch_s:.0f} s")
        still = _watched(path, previous, seen, watch_s)
    if previous is None:
        return owner, None
    if previous.process.is_alive is None:
        time.sleep(min(GRACE_S, watch_s))
    return owner, f"took over the lock of {previous.describe()}: {dead}"


def _heartbeat(path: Path) -> tuple[int, bytes]:
    """The heartbeat (the file's modification time, ns) and the content; reopened, because NFS caches."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read(LOCK_BYTES_MAX)


def _why_dead(
    path: Path, owner: Owner, seen: tuple[int, bytes], still: tuple[int, bytes] | None, watch_s: float
) -> str | None:
    """The reason to take over an owner's lock; None if its heartbeat has to be watched first.

    seen: the heartbeat and content now.  still: those that did not change while they were watched.
    Raises RefusedError if the owner is alive.
    """
    alive = owner.process.is_alive
    if alive is False:
        return "that process is gone"
    age_s = file_system_time(path.parent) - seen[0] / 1e9
    rebooted = owner.host == host_name() and owner.boot != boot_id()
    if alive or (abs(age_s) <= STALE_AFTER_S and not rebooted):
        raise _held(path, owner)
    if seen != still:
        return None
    if rebooted:
        return "the machine was rebooted since"
    if age_s < 0:
        return f"its heartbeat is {-age_s:.0f} s in the future and did not change for {watch_s:g} s"
    return f"its heartbeat is {age_s:.0f} s old, more than {STALE_AFTER_S:.0f} s"


def _watched(path: Path, owner: Owner, seen: tuple[int, bytes], watch_s: float) -> tuple[int, bytes]:
    """Watch a heartbeat; returns it if it did not change, raises RefusedError if it did."""
    deadline = time.monotonic() + watch_s
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        if _heartbeat(path) != seen:
            raise _held(path, _parse(_heartbeat(path)[1]) or owner)
    return seen


def _held(path: Path, owner: Owner) -> RefusedError:
    return RefusedError(
        f"{path.parent.resolve().name} is being trained by {owner.describe()}",
        where=str(path),
        hints=[f"wait for it, or {owner.stop_hint}"],
    )


class Fence:
    """Stops a worker from writing into a run that another launcher has taken over.

    token: of the lock that the worker's launcher holds; None: checks nothing.
    """

    def __init__(self, lock_file: Path, token: str | None) -> None:
        self._lock_file, self._token = lock_file, token
        self._checked_s = float("-inf")

    def check(self, *, now: bool = False) -> None:
        """Read the lock again, at most once a second unless `now`.

        Raises RunFailedError if it names another owner or none.  A lock that cannot be read passes.
        """
        # this clock goes on while the machine is suspended
        time_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._token is None or (not now and time_s - self._checked_s < FENCE_EVERY_S):
            return
        owner = None
        for _ in range(TORN_READS):  # it may be being written
            try:
                owner = _parse(self._lock_file.read_bytes())
            except OSError:
                return
            if owner is not None:
                break
            time.sleep(POLL_S / 10)
        if owner is None or owner.token != self._token:
            raise _taken_over(self._lock_file, owner)
        self._checked_s = time_s


def _taken_over(lock_file: Path, owner: Owner | None) -> RunFailedError:
    run = lock_file.parent.resolve()
    message = (
        f"{run.name} was taken over by {owner.describe()}"
        if owner
        else f"the lock of {run.name} was released"
    )
    return RunFailedError(
        f"{message} while this worker's launcher was suspended; this worker stops writing",
        where=str(lock_file),
        hints=[f"`{command('llmrun', 'runs', 'show', run)}` shows its owner"],
    )


def _write(descriptor: int, content: bytes) -> None:
    """Replace the file's content in place, because flock holds its inode.  Raises OSError.

    Truncated afterwards: overwriting needs no free space.
    """
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
    os.ftruncate(descriptor, len(content))


def _cannot_write(path: Path, error: OSError) -> RefusedError:
    return RefusedError(f"cannot write {path}: {error.strerror}")


def _parse(content: bytes) -> Owner | None:
    """The owner in a lock file; None if it is empty, or torn by a crash."""
    try:
        document = json.loads(content)
        if document["format"] != LOCK_FORMAT:
            return None
        return Owner(**{field.name: document[field.name] for field in fields(Owner)})
    except (ValueError, KeyError, TypeError):
        return None
