"""What is killed, and when: a pure function of the seed, so that one line replays a failure.

Moments are drawn on logical time (the n-th operation on the disk within a save, the n-th micro-batch) and on the
clock.  The first kind covers every place between two operations, the second whatever lies inside one.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Victim = Literal["rank", "ranks", "launcher", "agent"]
Moment = Literal["saving", "step", "clock", "loading", "starting"]

KILLS_PER_RUN = 20
"""A run is killed so often, then it may finish; short runs keep a replay short."""

D_MAX = 4
V = 8

OPERATIONS_MAX = {True: 150, False: 50}
"""Operations on the disk in about two saves, by whether the rank is rank 0, which commits and prunes."""


@dataclass(frozen=True)
class Kill:
    """One segment of a run and how it is to end.

    number:   0-based, within the run.
    victim:   one rank, all ranks with their loader workers, the launcher, or torchrun's agent.
    moment:   saving    before the nth operation of `rank` on files below checkpoints/
              step      at the nth time that `rank` comes to `point`
              clock     `delay_s` after the first step
              loading   `delay_s` after the ranks were started
              starting  before the nth operation of the launcher on the disk
    goes_back: the segment starts from the checkpoint before the newest, where there are two.
    """

    number: int
    victim: Victim
    moment: Moment
    rank: int
    nth: int
    point: str
    delay_s: float
    D: int
    strategy: str
    num_workers: int
    goes_back: bool

    def __str__(self) -> str:
        when = {
            "saving": f"rank {self.rank}, operation {self.nth} in saving",
            "step": f"rank {self.rank}, {self.point} {self.nth}",
            "clock": f"{self.delay_s * 1000:.0f} ms after the first step",
            "loading": f"{self.delay_s * 1000:.0f} ms after the ranks were started",
            "starting": f"operation {self.nth} of the launcher",
        }[self.moment]
        who = f"rank {self.rank}" if self.victim == "rank" else f"the {self.victim}"
        back = ", from the checkpoint before the newest" if self.goes_back else ""
        return f"kill {self.number}: {who}, {when}; D = {self.D}, {self.strategy}, {self.num_workers} loaders{back}"


def warm_kill(seed: int, run: str, number: int) -> Kill:
    """The kill with this number in a run whose ranks are started warm."""
    draw = random.Random(f"{seed}/{run}/{number}")
    moment: Moment = draw.choices(
        ("saving", "step", "clock", "loading", "starting"), weights=(50, 15, 20, 5, 10)
    )[0]
    victim: Victim = draw.choices(("rank", "ranks", "launcher"), weights=(4, 3, 3))[0]
    D = draw.choices(range(1, D_MAX + 1), weights=(3, 3, 2, 2))[0]
    rank = draw.randrange(D)
    point = draw.choice(("micro-batch", "update", "record"))
    if point == "record":
        rank = 0 if moment == "step" else rank
    return Kill(
        number=number,
        victim="launcher" if moment == "starting" else victim,
        moment=moment,
        rank=rank,
        nth=_nth(draw, moment, rank, point, D),
        point=point,
        delay_s=draw.uniform(0.0, 0.5),
        D=D,
        strategy=draw.choice(("replicate", "shard")),
        num_workers=draw.choices((0, 2), weights=(3, 1))[0],
        goes_back=draw.random() < 0.05,
    )


def _nth(draw: random.Random, moment: Moment, rank: int, point: str, D: int) -> int:
    """How many operations or calls pass before the kill: those of a few steps."""
    if moment == "saving":
        return draw.randint(1, OPERATIONS_MAX[rank == 0])
    if moment == "starting":
        return draw.randint(1, 60)
    steps = draw.randint(1, 6)
    return draw.randint(1, steps * V // D) if point == "micro-batch" else steps


def torchrun_kill(seed: int, run: str, number: int) -> Kill:
    """The kill with this number in a run through the command line and torchrun: always from outside."""
    draw = random.Random(f"{seed}/{run}/{number}")
    moment: Moment = draw.choices(("saving", "clock", "loading"), weights=(6, 3, 1))[0]
    D = draw.randint(1, D_MAX)
    return Kill(
        number=number,
        victim=draw.choices(("rank", "ranks", "launcher", "agent"), weights=(3, 3, 3, 1))[0],
        moment=moment,
        rank=draw.randrange(D),
        nth=draw.randint(1, 20),
        point="",
        delay_s=draw.uniform(0.0, 4.0 if moment == "loading" else 0.5),
        D=D,
        strategy=draw.choice(("replicate", "shard")),
        num_workers=draw.choices((0, 2), weights=(3, 1))[0],
        goes_back=draw.random() < 0.05,
    )


def runs(kind: Literal["w", "t"], kills: int) -> Iterator[tuple[str, int]]:
    """(label, kills) of the runs that `kills` are spread over: w1, w2, … are started warm, t1, t2, … by torchrun."""
    for first in range(0, kills, KILLS_PER_RUN):
        yield f"{kind}{first // KILLS_PER_RUN + 1}", min(KILLS_PER_RUN, kills - first)
