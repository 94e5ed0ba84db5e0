"""`python -m chaos`, by `make chaos`: kills runs until one breaks, or none does.

Exit code 0: no finding.  1: a finding; the last lines say which, and the one line that replays it.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmrun.launch.torchrun import worker_environment

# Before torch is imported: ranks are forks of this process and need a rank's variables.
os.environ |= worker_environment(os.environ, 1)

import torch

from chaos import fire, torchrun
from chaos.checks import Finding, Truth, adopt_orphans
from chaos.fire import Run, Tally
from chaos.ground import make_ground
from chaos.plan import runs, torchrun_kill, warm_kill
from chaos.tables import report
from warm.packages import installed
from warm.preload import preload

KINDS = {"w": ("warm", warm_kill, fire.play), "t": ("by torchrun", torchrun_kill, torchrun.play)}
PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"
MISSED_MAX = 10
"""So many runs in turn that were over before a kill came: its moment does not exist."""
MARKS = ("<!-- tally -->\n", "<!-- end of tally -->")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="kills of runs whose ranks are started warm")
    parser.add_argument(
        "--torchrun", type=int, default=0, help="kills of runs through the command line and torchrun"
    )
    parser.add_argument("--seed", type=int, default=1, help="draws victims, moments, D, strategy")
    parser.add_argument("--only", default="", help="one run of the campaign, such as w12 or t1")
    parser.add_argument("--write", action="store_true", help="put the tally into docs/chaos.md")
    parser.add_argument(
        "--torn", action="store_true", help="tear every checkpoint: the harness has to find it"
    )
    return parser.parse_args()


def command_line(options: argparse.Namespace, only: str = "") -> str:
    """The line that does the same again."""
    given = [f"N={options.kills}", f"TORCHRUN={options.torchrun}", f"SEED={options.seed}"]
    return " ".join(["make chaos", *given, *([f"ONLY={only}"] if only else [])])


class Campaign:
    """All runs of one command line."""

    def __init__(self, options: argparse.Namespace, ground: Path) -> None:
        self.options, self.ground = options, ground
        self.tallies: dict[str, Tally] = {}
        self.doing, self.label = "the straight run", ""

    def go(self) -> None:
        """Every run, one after the other.  Raises Finding."""
        truth = make_ground(self.ground)
        for label, kills in self._runs():
            self.label = label
            self._under_fire(label, kills, truth)

    def count(self, finding: Finding) -> None:
        """Put the finding that ends the campaign into its tally."""
        if self.label:
            self.tallies[KINDS[self.label[0]][0]].findings[finding.kind] += 1

    def _runs(self) -> Iterator[tuple[str, int]]:
        everything = [*runs("w", self.options.kills), *runs("t", self.options.torchrun)]
        chosen = [run for run in everything if self.options.only in ("", run[0])]
        if not chosen:
            sys.exit(f"there is no run {self.options.only} in this campaign")
        yield from chosen

    def _under_fire(self, label: str, kills: int, truth: Truth) -> None:
        """One run until it was killed so often; where it is done before, another one takes its place."""
        name, draw, play = KINDS[label[0]]
        tally = self.tallies.setdefault(name, Tally())
        begun, life = time.monotonic(), 1
        run = Run(self.ground, label, truth, tally, play)
        for number in range(kills):
            kill = draw(self.options.seed, label, number)
            self.doing = str(kill)
            self._show(f"{label}  {self.doing}")
            missed = 0
            while not run.segment(kill, is_torn=self.options.torn):
                run.finish()
                life, missed = life + 1, missed + 1
                if missed == MISSED_MAX:
                    raise Finding("ending", f"{missed} runs in turn were finished before this kill came")
                run = Run(self.ground, f"{label}.{life}", truth, tally, play)
        self.doing = "the last segment, which nobody kills"
        run.segment(None)
        run.finish()
        shutil.rmtree(run.run.path)
        seconds = time.monotonic() - begun
        self._show(f"{label}  {kills} kills, equal to the straight run, {seconds:.0f} s", last=True)

    def _show(self, text: str, *, last: bool = False) -> None:
        """A line that is overwritten on a terminal; elsewhere only the last words of a run."""
        done = sum(tally.kills.total() for tally in self.tallies.values())
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K{done:5,} kills  {text}" + ("\n" if last else ""))
        elif last:
            sys.stdout.write(f"{done:5,} kills  {text}\n")
        sys.stdout.flush()


def write_page(text: str) -> None:
    """Put the tally between its marks in docs/chaos.md."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    assert tail, f"{PAGE} has lost its marks"
    PAGE.write_text(f"{head}{MARKS[0]}\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def main() -> int:
    """One campaign."""
    options = arguments()
    torch.set_num_threads(1)
    preload()
    installed()
    adopt_orphans()
    ground = Path(tempfile.mkdtemp(prefix="llmrun-chaos-"))
    os.chdir(ground)
    campaign, begun = Campaign(options, ground), time.monotonic()
    found = None
    try:
        campaign.go()
    except Finding as finding:
        found = finding
        campaign.count(finding)
    text = report(campaign.tallies, time.monotonic() - begun, command_line(options, options.only))
    print(f"\n{text}")
    if found is not None:
        print(f"\nFOUND in {campaign.label or 'no run'}, {campaign.doing}:\n  {found}")
        print(f"  everything is kept in {ground}\n  replay: {command_line(options, campaign.label)}")
        return 1
    shutil.rmtree(ground)
    if options.write:
        write_page(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
