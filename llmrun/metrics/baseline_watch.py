"""The rule by which a run is said to have left its baseline's band, and how it is said."""

from collections import deque
from statistics import NormalDist
from typing import Any

import numpy as np

from llmrun.metrics import names
from llmrun.metrics.baseline import Band
from llmrun.metrics.student import t_quantile

ALPHA = 0.05
"""The band that is shown is the one that one more run leaves with this probability, at each step by itself."""
Z_OUT = 3.0
"""A step counts as outside where its |z| is larger: 27 of 10,000 steps by chance."""
OUT_OF = 20
"""Steps that the rule looks back."""
OUT_MIN = 15
"""So many of them on one side, and the run has left the band."""


class BaselineWatch:
    """Looks at each step; warns once when the smoothed loss has left the band, and again after it was back.

    The rule: at least OUT_MIN of the last OUT_OF steps lie beyond Z_OUT on the same side.  It is back when none of
    the last OUT_OF does.  What it costs in false alarms was measured: docs/verify-statistical.md.
    """

    def __init__(self, band: Band) -> None:
        self._band = band
        self._half_width = band.half_width(ALPHA)
        self._sides: deque[int] = deque(maxlen=OUT_OF)
        self._is_out = False

    def step(self, step: int, loss_smooth: float) -> tuple[dict[str, Any], str | None]:
        """What metrics.jsonl says of the step, and a warning where the run leaves the band there.

        loss_smooth: nats.  Beyond the baseline's last step nothing is said.
        """
        z = self._band.z(step, loss_smooth)
        if z is None:
            return {}, None
        mean, half = float(self._band.mean[step - 1]), float(self._half_width[step - 1])
        fields = {names.BASELINE_LOW: mean - half, names.BASELINE_HIGH: mean + half, names.BASELINE_Z: z}
        self._sides.append((z > Z_OUT) - (z < -Z_OUT))
        left = self._left()
        if not left:
            return fields, None
        where = "above" if left > 0 else "below"
        return fields, (
            f"step {step:,}: the smoothed loss {loss_smooth:.4f} has left the baseline's band, "
            f"{where} its mean {mean:.4f} by z = {z:+.1f}; one more run of {self._band.n} is expected "
            f"within {mean - half:.4f} … {mean + half:.4f} ({1 - ALPHA:.0%})"
        )

    def _left(self) -> int:
        """The side on which the run leaves the band at this step, 0 where it does not."""
        if self._is_out:
            self._is_out = any(self._sides)
            return 0
        for side in (1, -1):
            if self._sides.count(side) >= OUT_MIN:
                self._is_out = True
                return side
        return 0


def first_left(band: Band, loss_smooth: np.ndarray) -> int | None:
    """The step at which BaselineWatch would first warn of a whole curve; None where it would not.

    loss_smooth: [steps], float64, nats, from step 1 on; steps beyond the band are not looked at.
    """
    steps = min(band.steps, len(loss_smooth))
    t_out = t_quantile(NormalDist().cdf(-Z_OUT), band.n - 1)
    away = loss_smooth[:steps] - band.mean[:steps]
    reach = t_out * band.spread[:steps]
    known = np.flatnonzero(~np.isnan(away))
    found = []
    for out in (away[known] > reach[known], away[known] < -reach[known]):
        count = np.concatenate([[0], np.cumsum(out)])
        lately = count[1:] - count[np.maximum(np.arange(len(known)) - OUT_OF + 1, 0)]
        found += list(known[np.flatnonzero(lately >= OUT_MIN)[:1]])
    return int(min(found)) + 1 if found else None
