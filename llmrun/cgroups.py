"""Limits of control groups (cgroups) on memory and processors, and the number of out-of-memory kills.

Versions 1 and 2 are read, also if both are mounted.  Every group from that of the process up to the mounted root may
have a limit; the smallest one applies.  A missing or unreadable file sets no limit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/self")
UNLIMITED_BYTES = 1 << 60
"""Version 1 states the largest multiple of a page if there is no limit."""


@dataclass(frozen=True)
class CgroupLimits:
    """The smallest limits of all groups; None if there is none.

    cpus: number of processors, possibly fractional, such as 1.5.
    """

    memory_bytes: int | None
    cpus: float | None


def cgroup_limits(proc: Path = PROC) -> CgroupLimits:
    """The limits of a process.  proc: its directory below /proc."""
    memory = [found for group in _groups(proc, "memory") if (found := _memory_bytes(group)) is not None]
    cpus = [share for group in _groups(proc, "cpu") if (share := _cpus(group)) is not None]
    return CgroupLimits(min(memory, default=None), min(cpus, default=None))


def oom_kills(proc: Path = PROC) -> int | None:
    """Processes in the group of this process that the kernel has killed for memory; None if it does not count them."""
    for group in _groups(proc, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            found = re.search(r"^oom_kill (\d+)$", _text(group / name), re.MULTILINE)
            if found:
                return int(found[1])
    return None


def _memory_bytes(group: Path) -> int | None:
    """The memory limit of one group."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _text(group / name).strip()
        if text.isdigit() and int(text) < UNLIMITED_BYTES:
            return int(text)
    return None


def _cpus(group: Path) -> float | None:
    """The processor limit of one group: time per period."""
    quota, _, period = _text(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """The directories of the groups of a process for a controller, its own group first."""
    paths = dict(_paths(proc))
    for root, place, names in _mounts(proc):
        path = paths.get("" if names is None else controller)
        if path is None or (names is not None and controller not in names):
            continue
        below = path.removeprefix(root.rstrip("/")) if path.startswith(root.rstrip("/")) else "/"
        group = place / below.strip("/")
        if ".." in group.parts or not group.is_dir():
            group = place  # in a container its own group is the root
        while True:
            yield group
            if group == place:
                break
            group = group.parent


def _paths(proc: Path) -> Iterator[tuple[str, str]]:
    """(controller, path) of each hierarchy; the controller is empty in version 2."""
    for line in _text(proc / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts(proc: Path) -> Iterator[tuple[str, Path, list[str] | None]]:
    """(root, mount point, controllers) of each mounted hierarchy; controllers are None in version 2."""
    for line in _text(proc / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ")
        if kind in ("cgroup", "cgroup2"):
            root, place = (_unescaped(word) for word in before.split(" ")[3:5])
            yield root, Path(place), None if kind == "cgroup2" else options.split(",")


def _unescaped(word: str) -> str:
    r"""A path of mountinfo, which writes blanks as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _text(path: Path) -> str:
    """The content of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
