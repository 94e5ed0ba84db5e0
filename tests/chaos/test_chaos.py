"""A short campaign of kills, and whether a campaign can fail at all."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chaos.checks import unsummed
from chaos.plan import KILLS_PER_RUN, runs, torchrun_kill, warm_kill

TESTS = Path(__file__).parents[1]


def campaign(*options: str) -> tuple[int, str]:
    """Exit code and screen of `python -m chaos`."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *options],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def figure(screen: str, name: str) -> list[str]:
    """The cells of one row of the tally."""
    (line,) = re.findall(rf"^\| {name} +\|(.*)\|$", screen, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


@pytest.mark.slow
def test_a_short_campaign_finds_nothing():
    """Twenty kills of ranks and launchers started warm and one through torchrun: bits equal, nothing unsound or left."""
    code, screen = campaign("--kills", "20", "--torchrun", "1", "--seed", "1")

    assert code == 0, screen
    assert figure(screen, "kills") == ["20", "1"]
    assert figure(screen, "unsound or of other bits among them") == ["0", "0"]
    assert int(figure(screen, "resumes from a checkpoint")[0]) >= 10
    assert int(figure(screen, "steps recomputed, all equal to their earlier record")[0]) > 0


TORN = ("--kills", "60", "--seed", "1", "--only", "w2", "--torn")


def found_in(screen: str) -> list[str]:
    """What a campaign found, and in which kill."""
    return re.findall(r"^FOUND in .*\n.*$", screen, re.MULTILINE)


@pytest.mark.slow
def test_a_torn_checkpoint_is_found():
    """With a fault on purpose the campaign fails, and prints the one line that replays it."""
    code, screen = campaign(*TORN)

    assert code == 1
    assert "stands under its final name and is not sound: trainer.json" in found_in(screen)[0]
    assert figure(screen, "unsound or of other bits among them") == ["1"]
    assert "  replay: make chaos N=60 TORCHRUN=0 SEED=1 ONLY=w2\n" in screen


@pytest.mark.slow
def test_a_replay_finds_the_same():
    """The same line fails at the same kill in the same way."""
    assert found_in(campaign(*TORN)[1]) == found_in(campaign(*TORN)[1])


def test_a_plan_is_a_function_of_its_seed():
    """The same seed, run and number draw the same kill; another seed, run or number another plan."""
    plan = [warm_kill(7, "w3", number) for number in range(20)]

    assert plan == [warm_kill(7, "w3", number) for number in range(20)]
    assert plan != [warm_kill(8, "w3", number) for number in range(20)]
    assert plan != [warm_kill(7, "w4", number) for number in range(20)]


def test_a_thousand_kills_cover_everything():
    """Each victim at each moment, each D, both strategies, and nearly half inside a save."""
    kills = [warm_kill(1, label, n) for label, count in runs("w", 1000) for n in range(count)]
    cells = Counter((kill.victim, kill.moment) for kill in kills)

    assert len(kills) == 1000
    assert len(cells) == 3 * 4 + 1
    assert min(cells.values()) >= 5
    assert sum(count for (_, moment), count in cells.items() if moment == "saving") > 400
    assert {kill.D for kill in kills} == {1, 2, 3, 4}
    assert {(kill.strategy, kill.num_workers) for kill in kills} == {
        ("replicate", 0),
        ("replicate", 2),
        ("shard", 0),
        ("shard", 2),
    }
    assert all(kill.rank < kill.D for kill in kills)
    by_torchrun = [torchrun_kill(1, "t1", number) for number in range(40)]
    assert {kill.victim for kill in by_torchrun} == {"rank", "ranks", "launcher", "agent"}


def test_runs_add_up():
    """The kills of a campaign are spread over short runs, the last of which takes the rest."""
    assert list(runs("t", 45)) == [("t1", KILLS_PER_RUN), ("t2", KILLS_PER_RUN), ("t3", 5)]


def test_an_orphan_is_found():
    """A process that lives on is named and killed."""
    script = (
        "import subprocess, sys\n"
        "from chaos.checks import Finding, adopt_orphans, wait_for_descendants\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'sleep 61 &'])\n"
        "try:\n"
        "    wait_for_descendants(0.2)\n"
        "except Finding as finding:\n"
        "    print(finding.kind, finding)\n"
        "print(f'{wait_for_descendants(5.0):.0f} s later none')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    assert re.fullmatch(
        r"orphans 1 processes live 0\.2 s after their launcher's end: PID \d+: sleep 61\n0 s later none\n",
        found.stdout,
    )


@pytest.mark.parametrize("damage", ["flip", "cut", "more", "gone"])
def test_the_second_opinion_sees_damage(tmp_path, damage):
    """SHA256SUMS is held against the files by hashlib alone."""
    content = b"weights"
    (tmp_path / "model").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{digest}  model\n")
    assert unsummed(tmp_path) == []
    changed = {"flip": b"xeights", "cut": b"weight", "more": content, "gone": content}[damage]
    (tmp_path / "model").write_bytes(changed)
    if damage == "more":
        (tmp_path / "extra").write_bytes(b"")
    if damage == "gone":
        (tmp_path / "SHA256SUMS").unlink()

    assert unsummed(tmp_path)


def test_the_page_holds_the_tally_of_a_full_campaign():
    """docs/chaos.md shows a campaign of 1,000 kills and 40 through torchrun that found nothing."""
    page = (TESTS.parent / "docs" / "chaos.md").read_text()
    tally = page[page.index("<!-- tally -->") : page.index("<!-- end of tally -->")]

    assert figure(tally, "kills") == ["1,000", "40"]
    assert figure(tally, "unsound or of other bits among them") == ["0", "0"]
    assert figure(tally, "kills that left an orphan") == ["0", "0"]
