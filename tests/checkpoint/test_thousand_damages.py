"""1,000 random damages over every file: each is found when the checkpoint is loaded, and told in a line.

Through the library all of them; through the real commands a part, as a process of their own takes its time.
"""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmrun.run.lock import live_owner
from llmrun.storage.checkpoint.verification import newest_sound, verify_files
from warm.bits import assert_equal_runs
from warm.driver import STEPS
from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]

SEED = 20260301
KINDS = ("flip", "truncate", "remove")


@dataclass(frozen=True)
class Harm:
    """One damage of one file.  at: a bit to flip, or the bytes that are left."""

    kind: str
    file: str
    at: int

    def do(self, checkpoint: Path) -> None:
        """Damage the file."""
        path = checkpoint / self.file
        content = bytearray(path.read_bytes())
        if self.kind == "remove":
            path.unlink()
        elif self.kind == "truncate":
            path.write_bytes(content[: self.at])
        else:
            content[self.at // 8] ^= 1 << self.at % 8
            path.write_bytes(content)


def harms(checkpoint: Path, count: int, seed: int) -> Iterator[Harm]:
    """Seeded damages that go round all files: seven of ten are single bits, two cut a file, one removes it."""
    dice = random.Random(seed)
    files = sorted(checkpoint.iterdir())
    for number in range(count):
        file = files[number % len(files)]
        size = file.stat().st_size
        kind = dice.choices(KINDS, (7, 2, 1))[0]
        yield Harm(kind, file.name, dice.randrange(size * 8 if kind == "flip" else size))


def is_told(harm: Harm, told: str) -> bool:
    """Whether a line speaks of the damage: of the file, or, where the root of verification is hit, of any."""
    return "\n" not in told and (harm.file in told or harm.file == "SHA256SUMS")


def test_a_thousand_damages_are_found(states, tmp_path):
    """Each is found at load by its file, and the older checkpoint is taken."""
    states.save(tmp_path, 8)
    checkpoint = states.save(tmp_path, 16)
    kept = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    tally: Counter[tuple[str, str]] = Counter()
    for harm in harms(checkpoint, 1000, SEED):
        harm.do(checkpoint)
        newest, damages = newest_sound(tmp_path)
        (checkpoint / harm.file).write_bytes(kept[harm.file])

        assert any(is_told(harm, str(damage)) for damage in damages), harm
        assert newest is not None, harm
        assert newest.step == 8, harm
        tally[harm.kind, harm.file] += 1

    assert verify_files(checkpoint) == []
    assert {file for _, file in tally} == kept.keys()
    totals = {kind: sum(n for (k, _), n in tally.items() if k == kind) for kind in KINDS}
    assert sum(totals.values()) == 1000
    assert min(totals.values()) >= 80, totals


def llmrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    command = [sys.executable, "-m", "llmrun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_check_command_names_thirty_damages(states, tmp_path):
    """`llmrun checkpoints check` over five runs of six damaged checkpoints and a sound one: exit 1, all named."""
    model = states.save(tmp_path / "model", 8)
    drawn = list(harms(model, 30, SEED + 1))
    for number in range(5):
        run = tmp_path / f"run{number}"
        (run / "checkpoints").mkdir(parents=True)
        (run / "run.json").write_text("{}")
        some = drawn[6 * number : 6 * number + 6]
        for step, harm in enumerate(some, start=1):
            harm.do(states.save(run / "checkpoints", step))
        states.save(run / "checkpoints", 7)
        found = llmrun("checkpoints", "check", run, "--json")
        document = json.loads(found.stdout)

        assert (found.returncode, found.stderr) == (1, "")
        assert [row["sound"] for row in document["checkpoints"]] == [False] * 6 + [True]
        for step, harm in enumerate(some, start=1):
            told = [
                f"{row['file']} {row['message']}"
                for row in document["damages"]
                if row["checkpoint"].endswith(f"{step}")
            ]
            assert any(is_told(harm, line) for line in told), harm


def test_a_resume_where_all_are_damaged_is_refused(driver, pool, tmp_path):
    """`llmrun resume`, real: exit 3, each damage in a line, no traceback, and the lock is free again."""
    driver.train(pool, "whole", until=6)
    whole = driver.run("whole").path
    drawn = harms(whole / "checkpoints" / "step-00000006", 12, SEED + 2)
    for number in range(6):
        run = tmp_path / "runs" / f"run{number}"
        shutil.copytree(whole, run)
        pair = {5: next(drawn), 6: next(drawn)}
        for step, harm in pair.items():
            harm.do(run / "checkpoints" / f"step-{step:08d}")
        found = llmrun("resume", run, "--json")
        error = json.loads(found.stderr)

        assert (found.returncode, found.stdout) == (3, "")
        assert f"run{number} " in error["message"]
        for step, harm in pair.items():
            told = [line for line in error["caused_by"] if line.startswith(f"step-{step:08d}/")]
            assert any(is_told(harm, line) for line in told), harm
        assert live_owner(run / "run.lock") is None


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_resume_passes_over_a_damaged_checkpoint(driver, pool, seed):
    """The newest is damaged: the user is told, the older one is taken, and the bits are those of no damage."""
    if not driver.run("straight").is_run:
        driver.train(pool, "straight")
    driver.train(pool, "hurt", until=10)
    newest = driver.run("hurt").checkpoints / "step-00000010"
    (harm,) = list(harms(newest, seed + 1, SEED + seed))[-1:]
    harm.do(newest)
    ended = driver.resume(pool, "hurt")
    told = [line for line in driver.said if line.startswith("skipping damaged checkpoint step-00000010/")]

    assert len(told) == 1
    assert is_told(harm, told[0])
    assert ended.record.segments[-1].from_step == 5
    assert ended.end.proven_steps == 5
    assert_equal_runs(driver.run("straight"), driver.run("hurt"), STEPS)
