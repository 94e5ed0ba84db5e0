"""Progress of long commands on stderr: one line that is rewritten on a terminal, else a line per stage."""

import sys
import time
from collections.abc import Callable

from llmrun.cli import console

INTERVAL_S = 0.2
PLAIN_INTERVAL_S = 10.0


class StageReport:
    """Says what is being done and how far it is; on a terminal in place, elsewhere now and then."""

    def __init__(self, *, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._stage = ""
        self._said_at = -INTERVAL_S

    def __call__(self, stage: str, done: int, total: int, unit: str = "bytes", /) -> None:
        """Report `done` of `total` units; bytes are shown in MB."""
        now, fresh, last = self._clock(), stage != self._stage, done >= total
        interval = INTERVAL_S if self._live else PLAIN_INTERVAL_S
        if not (fresh or (last and self._live) or now - self._said_at >= interval):
            return
        self._stage, self._said_at = stage, now
        whole = _quantity(total, unit)
        line = f"{stage} {_quantity(done, unit).split()[0]} of {whole}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            console.note(line if not fresh else f"{stage} {whole}")


def _quantity(count: int, unit: str) -> str:
    return f"{count / 1e6:,.1f} MB" if unit == "bytes" else f"{count:,} {unit}"


def stage_report() -> StageReport:
    """The report for this process's stderr."""
    return StageReport(live=console.colours(sys.stderr))
