"""What control groups allow this process: memory, processors, and how often the kernel killed for memory.

Both versions are read, also side by side: every group from that of the process up to the root that is mounted
here may hold a limit, and the smallest one counts.  A file that is missing or unreadable limits nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
UNLIMITED_BYTES = 1 << 60
"""Version 1 writes the largest multiple of a page where there is no limit."""


@dataclass(frozen=True)
class CgroupLimits:
    """The smallest limits along the path; None if there is none.

    cpus: processors' worth of time, such as 1.5.
    """

    memory_bytes: int | None
    cpus: float | None


def cgroup_limits(proc: Path = PROC) -> CgroupLimits:
    """The limits of a process.  proc: its directory below /proc."""
    memory = [found for group in _groups(proc, "memory") if (found := _memory_bytes(group)) is not None]
    cpus = [share for group in _groups(proc, "cpu") if (share := _cpus(group)) is not None]
    return CgroupLimits(min(memory, default=None), min(cpus, default=None))


def oom_kills(proc: Path = PROC) -> int | None:
    """Processes that the kernel has killed for memory in this process's group so far; None if nobody counts."""
    for group in _groups(proc, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            found = re.search(r"^oom_kill (\d+)$", _text(group / name), re.MULTILINE)
            if found:
                return int(found[1])
    return None


def _memory_bytes(group: Path) -> int | None:
    """The limit of one group."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _text(group / name).strip()
        if text.isdigit() and int(text) < UNLIMITED_BYTES:
            return int(text)
    return None


def _cpus(group: Path) -> float | None:
    """The limit of one group: time per period."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """The directories of a process's groups for a controller, its own first, in both versions."""
    paths = dict(_paths(proc))
    for root, place, names in _mounts(proc):
        path = paths.get("" if names is None else controller)
        if path is None or (names is not None and controller not in names):
            continue
        below = path.removeprefix(root.rstrip("/")) if path.startswith(root.rstrip("/")) else "/"
        group = place / below.strip("/")
        if ".." in group.parts or not group.is_dir():
            group = place  # a container sees its own group as the root
        while True:
            yield group
            if group == place:
                break
            group = group.parent


def _paths(proc: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) of each hierarchy; the controller of version 2 is empty."""
    for line in _text(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(proc: Path) -> Iterator[tuple[str, Path, list[str] | None]]:
    """(root, mount point, controllers) of each hierarchy that is mounted; None: version 2."""
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, place = (_unescaped(word) for word in before.split(" ")[3:5])
            yield root, Path(place), None if kind == "cgroup2" else options.split(",")


def _unescaped(word: str) -> str:
    r"""A path of mountinfo, in which blanks are written `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _text(path: Path) -> str:
    """The content of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
