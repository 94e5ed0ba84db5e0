"""Limits of control groups, from real files laid out as the kernel lays them out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrun.cgroups import CgroupLimits, cgroup_limits, oom_kills
from llmrun.machine import cpus_usable, memory_bytes

NO_LIMIT_V1 = "9223372036854771712\n"


def laid_out(base: Path, cgroup: str, mounts: list[str], files: dict[str, str]) -> Path:
    """A directory like /proc/PID whose mounts lie below `base`."""
    proc = base / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    lines = [f"{i} 1 0:{i} {mount}" for i, mount in enumerate(mounts)]
    (proc / "mountinfo").write_text("".join(f"{line.replace('BASE', str(base))}\n" for line in lines))
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    return proc


def test_version_2_takes_the_smallest_along_the_path(tmp_path):
    """The group of the process allows more than one above it."""
    proc = laid_out(
        tmp_path,
        "0::/job/step/task\n",
        ["/ BASE/sys rw - cgroup2 cgroup2 rw,nsdelegate"],
        {
            "sys/job/memory.max": f"{8 << 30}\n",
            "sys/job/cpu.max": "max 100000\n",
            "sys/job/step/memory.max": f"{2 << 30}\n",
            "sys/job/step/cpu.max": "150000 100000\n",
            "sys/job/step/task/memory.max": "max\n",
            "sys/job/step/task/cpu.max": "400000 100000\n",
            "sys/job/step/task/memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\n",
        },
    )
    assert cgroup_limits(proc) == CgroupLimits(2 << 30, 1.5)
    assert oom_kills(proc) == 2


def test_version_1_and_both_side_by_side(tmp_path):
    """Hierarchies of their own for memory and processors, with blanks in a name, and an empty version 2."""
    proc = laid_out(
        tmp_path,
        "4:memory:/docker/a b\n3:cpu,cpuacct:/docker/a b\n0::/\n",
        [
            "/ BASE/m\\040em rw shared:9 - cgroup cgroup rw,memory",
            "/ BASE/cpu rw - cgroup cgroup rw,cpu,cpuacct",
            "/ BASE/unified rw - cgroup2 cgroup2 rw",
        ],
        {
            "m em/memory.limit_in_bytes": NO_LIMIT_V1,
            "m em/docker/memory.limit_in_bytes": f"{3 << 30}\n",
            "m em/docker/a b/memory.limit_in_bytes": NO_LIMIT_V1,
            "m em/docker/a b/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            "cpu/docker/cpu.cfs_quota_us": "-1\n",
            "cpu/docker/cpu.cfs_period_us": "100000\n",
            "cpu/docker/a b/cpu.cfs_quota_us": "50000\n",
            "cpu/docker/a b/cpu.cfs_period_us": "100000\n",
            "unified/cgroup.procs": "",
        },
    )
    assert cgroup_limits(proc) == CgroupLimits(3 << 30, 0.5)
    assert oom_kills(proc) == 4


@pytest.mark.parametrize(
    ("path", "root"), [("/docker/abc", "/docker/abc"), ("/../../x", "/"), ("/gone", "/")]
)
def test_a_container_sees_its_own_group_as_the_root(tmp_path, path, root):
    """The path of the process is that of the host, and the mount shows only a part of the tree."""
    proc = laid_out(
        tmp_path,
        f"0::{path}\n",
        [f"{root} BASE/sys rw - cgroup2 cgroup2 rw"],
        {"sys/memory.max": "1073741824\n", "sys/cpu.max": "max 100000\n"},
    )
    assert cgroup_limits(proc) == CgroupLimits(1 << 30, None)
    assert oom_kills(proc) is None


def test_nothing_to_read_limits_nothing(tmp_path):
    """No control groups at all."""
    assert cgroup_limits(tmp_path) == CgroupLimits(None, None)
    assert oom_kills(tmp_path) is None


def memory_group() -> Path | None:
    """A group of version 1 or 2 that this test may make and that limits memory; None if it may not."""
    for base in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        group = Path(base, f"llmrun-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        limit = next(
            (group / n for n in ("memory.limit_in_bytes", "memory.max") if (group / n).exists()), None
        )
        if limit is not None:
            limit.write_text(str(512 << 20))
            return group
        group.rmdir()
    return None


def test_a_real_group_limits_what_this_machine_offers():
    """A process that is put into a group of 512 MiB has that memory; this one has what it had."""
    group = memory_group()
    if group is None:
        pytest.skip("no control group can be made here")
    try:
        show = "from llmrun.machine import memory_bytes; print(memory_bytes())"
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", sys.executable, "-c", show]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) == 512 << 20
    finally:
        group.rmdir()
    assert memory_bytes() > 512 << 20
    assert cpus_usable() >= 1
