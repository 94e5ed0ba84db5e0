"""Plots two groups: the losses with the baseline's band, and the difference with the margin."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmrun.errors import InputError, Place
from llmrun.storage.durable import replace_file
from llmrun.verify.statistical.equivalence import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
POINTS_MAX = 2000
BASELINE, CANDIDATE, MARGIN = "#0072B2", "#D55E00", "#444444"
"""Blue and vermilion of Okabe and Ito's palette: distinguishable with any colour vision."""


def check_plot_file(path: Path) -> None:
    """Raises InputError if a plot cannot be written to `path`."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--plot must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path}")
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"cannot write {path}: no such directory: {path.parent}", where=Place(option="--plot")
        )


def write_plot(found: Comparison, path: Path) -> None:
    """Draw the comparison.  Raises InputError if the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_losses(upper, found)
    _draw_differences(lower, found)
    verdict = found.answer.replace("_", " ")
    figure.suptitle(f"{verdict}: margin {found.margin.show()}, step {found.step:,}")
    content = BytesIO()
    figure.savefig(content, format=path.suffix.lower()[1:], dpi=150)
    try:
        replace_file(path, [content.getvalue()])
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", where=Place(option="--plot")) from error


def _shown_steps(steps: int) -> np.ndarray:
    """Steps to draw, evenly spaced, int64."""
    return np.unique(np.linspace(1, steps, min(steps, POINTS_MAX)).round().astype(np.int64))


def _draw_losses(axes: "Axes", found: Comparison) -> None:
    """All smoothed losses, and the band in which one more run of the baseline is expected."""
    band = found.curves.band
    at = _shown_steps(band.steps)
    mean, half = band.mean[at - 1], band.half_width(found.alpha)[at - 1]
    label = f"{1 - found.alpha:.0%} band of {found.baseline.n} baseline runs"
    axes.fill_between(at, mean - half, mean + half, color=BASELINE, alpha=0.2, lw=0, label=label)
    axes.plot(at, mean, color=BASELINE, lw=1.5, label="their mean")
    for number, member in enumerate(found.candidate.members):
        label = f"{found.candidate.n} candidate runs" if number == 0 else ""
        axes.plot(at, member.curve.loss_smooth[at - 1], color=CANDIDATE, lw=0.8, alpha=0.8, label=label)
    axes.set_ylabel("smoothed loss, nats per token")
    # The steep first steps are left out of the limits.
    seen = np.concatenate(
        [
            mean[len(at) // 20 :],
            *(m.curve.loss_smooth[at - 1][len(at) // 20 :] for m in found.candidate.members),
        ]
    )
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    axes.set_ylim(low - 0.08 * (high - low), high + 0.05 * (high - low))
    axes.legend(frameon=False)


def _draw_differences(axes: "Axes", found: Comparison) -> None:
    """Each candidate minus the baseline's mean, the band, the margin, and the confidence interval."""
    band = found.curves.band
    at = _shown_steps(band.steps)
    half = band.half_width(found.alpha)[at - 1]
    axes.fill_between(at, -half, half, color=BASELINE, alpha=0.2, lw=0)
    axes.axhline(0.0, color=BASELINE, lw=1.5)
    for member in found.candidate.members:
        away = member.curve.loss_smooth[at - 1] - band.mean[at - 1]
        axes.plot(at, away, color=CANDIDATE, lw=0.8, alpha=0.8)
    for side in (-1, 1):
        label = f"margin ±{found.margin.nats:.3g}" if side > 0 else ""
        axes.axhline(side * found.margin.nats, color=MARGIN, lw=1.0, ls="--", label=label)
    means, step = found.measures[0].means, found.measures[0].measured.step
    axes.errorbar(
        [step],
        [means.difference],
        yerr=[[means.difference - means.low], [means.high - means.difference]],
        color="black",
        marker="o",
        ms=4,
        capsize=4,
        lw=1.5,
        clip_on=False,
        zorder=5,
        label=f"mean difference, {1 - 2 * found.alpha:.0%} interval",
    )
    axes.set_xlabel("step")
    axes.set_ylabel("minus the baseline's mean, nats")
    axes.legend(edgecolor="none", framealpha=0.8, loc="upper left", ncols=2)
