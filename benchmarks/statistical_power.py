"""How often `llmrun equivalence` and the live monitor are right, by simulation.

    python benchmarks/statistical_power.py [--draws 2000]

Verdicts: groups of n runs are drawn, each with two measures (final smoothed loss and val_ppl) whose correlation is
0.9, and judged by llmrun's own code.  The unit is the standard deviation from run to run.  "at the margin" is the
worst case of not being equivalent: to say equivalent there is a false positive, at most 5 % of the time.

Monitor: curves of a baseline and one more run are drawn as a slow deviation of each run (Ornstein-Uhlenbeck, standard
deviation 1, memory `tau` steps) plus the noise of batches, smoothed as `loss_smooth` is.
"""

import argparse
import math

import numpy as np

from llmrun.storage.metrics.loss_band import band_of, first_left
from llmrun.storage.metrics.throughput import DECAY
from llmrun.verify.statistical.equivalence import ComparisonRequest, Measurement, answer_of, compare_measures
from llmrun.verify.statistical.hypothesis_tests import Sample, power

ALPHA = 0.05
CORRELATION = 0.9
MEASURES = ("loss_smooth", "val_ppl")
BATCH_NOISE = 0.3
"""Standard deviation of the smoothed batch noise, next to 1 from run to run."""


def draw_group(rng: np.random.Generator, n: int, mean: float, sd: float) -> list[Sample]:
    """One group in each measure."""
    shared = rng.standard_normal(n)
    own = rng.standard_normal((len(MEASURES), n))
    values = mean + sd * (math.sqrt(CORRELATION) * shared + math.sqrt(1.0 - CORRELATION) * own)
    return [Sample.of(row.tolist()) for row in values]


def answers(
    rng: np.random.Generator, draws: int, n: int, margin: float, difference: float, sd: float
) -> dict[str, float]:
    """Shares of the verdicts.  sd: of the candidate, that of the baseline being 1."""
    counts = dict.fromkeys(("equivalent", "different", "not_shown"), 0)
    request = ComparisonRequest(margin, ALPHA, 0.8)
    for _ in range(draws):
        pairs = zip(draw_group(rng, n, 0.0, 1.0), draw_group(rng, n, difference, sd), strict=True)
        found = [Measurement(name, 1, pair) for name, pair in zip(MEASURES, pairs, strict=True)]
        counts[answer_of(compare_measures(found, request))] += 1
    return {answer: count / draws for answer, count in counts.items()}


def verdicts(draws: int) -> None:
    """The table of verdicts."""
    rng = np.random.default_rng(1)
    print(f"verdicts, {draws:,} draws each, alpha {ALPHA:g}")
    print(
        "| n | margin, sd | candidate's sd | equivalent, at the margin | equivalent, no difference "
        "| (exact, one measure) | different, no difference | different, at the margin |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n in (3, 5, 10):
        for margin in (1.5, 2.0, 3.0):
            for sd in (1.0, 2.0) if margin == 3.0 else (1.0,):
                none, edge = (answers(rng, draws, n, margin, d, sd) for d in (0.0, margin))
                exact = f"{power(n, margin, 1.0, ALPHA):.1%}" if sd == 1.0 else "-"
                print(
                    f"| {n} | {margin:g} | {sd:g} | {edge['equivalent']:.1%} | {none['equivalent']:.1%} | {exact} "
                    f"| {none['different']:.1%} | {edge['different']:.1%} |",
                    flush=True,
                )


def draw_curves(rng: np.random.Generator, runs: int, steps: int, tau: float, shift: float) -> np.ndarray:
    """Smoothed deviations [runs, steps], float64; the last run is moved by `shift` from the middle on."""
    keep = math.exp(-1.0 / tau)
    slow = rng.standard_normal(runs)
    batch_sd = BATCH_NOISE * math.sqrt((1.0 + DECAY) / (1.0 - DECAY))
    total, weight = np.zeros(runs), 0.0
    curves = np.empty((steps, runs))
    moved = np.zeros(runs)
    moved[-1] = shift
    for step in range(steps):
        slow = keep * slow + math.sqrt(1.0 - keep * keep) * rng.standard_normal(runs)
        value = slow + batch_sd * rng.standard_normal(runs) + (moved if step >= steps // 2 else 0.0)
        total, weight = DECAY * total + value, DECAY * weight + 1.0
        curves[step] = total / weight
    return curves.T


def monitor_row(draws: int, n: int, steps: int, tau: float, shift: float) -> tuple[float, float]:
    """Share of runs that are warned of, and the median number of steps from the shift to the warning."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(draws):
        curves = draw_curves(rng, n + 1, steps, tau, shift)
        found.append(first_left(band_of(list(curves[:n])), curves[n]))
    warned = [step for step in found if step is not None]
    late = [step - steps // 2 for step in warned if step > steps // 2]
    return len(warned) / draws, float(np.median(late)) if late and shift else math.nan


def monitor(draws: int) -> None:
    """The table of the live monitor."""
    print(f"\nmonitor, {draws:,} draws each")
    print("| n | steps | tau | shift, sd | warned of | median delay, steps |")
    print("|---|---|---|---|---|---|")
    for n in (3, 5, 10):
        for steps, tau, shift in (
            (1000, 10_000.0, 0.0),
            (1000, 1000.0, 0.0),
            (1000, 100.0, 0.0),
            (4000, 1000.0, 0.0),
            (1000, 1000.0, 5.0),
            (1000, 1000.0, 10.0),
            (1000, 1000.0, 20.0),
        ):
            share, delay = monitor_row(draws, n, steps, tau, shift)
            shown = "-" if math.isnan(delay) else f"{delay:.0f}"
            print(f"| {n} | {steps:,} | {tau:,.0f} | {shift:g} | {share:.1%} | {shown} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--monitor-draws", type=int, default=1000)
    arguments = parser.parse_args()
    verdicts(arguments.draws)
    monitor(arguments.monitor_draws)
