"""forecast.json: what was planned for each segment of a run and what came of it (docs/run-directory.md).

Format `llmrun-forecast/1`.  It is a gift to later plans: a run does not need it, and a damaged one is passed over.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llmrun.plan.forecast import QUANTITIES, Forecast
from llmrun.run.directory import RunDirectory, runs_below
from llmrun.storage.durable import replace_json

FORECAST_FORMAT = "llmrun-forecast/1"
RUNS_READ = 200
"""The newest so many runs of a directory are read."""


def write_forecasts(path: Path, forecasts: Sequence[Forecast]) -> None:
    """Replace the file as a whole.  Raises OSError."""
    segments = [{key: value for key, value in asdict(f).items() if key != "run"} for f in forecasts]
    replace_json(path, {"format": FORECAST_FORMAT, "segments": segments})


def read_forecasts(run: RunDirectory) -> list[Forecast]:
    """The forecasts of a run, by segment; none where there is no file, or one that is not ours or damaged."""
    try:
        document = json.loads(run.forecast_file.read_text(encoding="utf-8"))
        if document["format"] != FORECAST_FORMAT:
            return []
        return [_forecast(run.name, segment) for segment in document["segments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _forecast(run: str, segment: dict[str, Any]) -> Forecast:
    """One segment's; raises KeyError, TypeError or ValueError where it is not one."""
    known = {entry.name: segment[entry.name] for entry in fields(Forecast) if entry.name != "run"}
    for figures in (known["planned"], known["measured"] or known["planned"]):
        for name in ("steps", *QUANTITIES):
            if not isinstance(figures[name], int | float | None):
                raise TypeError(name)
    for key in ("device", "model"):
        known["machine"][key]
    for key in ("FLOPs", "precision", "D", "threads_per_rank"):
        known["work"][key]
    return Forecast(run=run, **known)


def forecasts_below(runs_dir: Path) -> list[Forecast]:
    """The forecasts of the newest runs directly below a directory."""
    found = []
    for run in runs_below(runs_dir):
        try:
            found.append((run.forecast_file.stat().st_mtime, run))
        except OSError:
            continue
    newest = sorted(found, key=lambda entry: entry[0])[-RUNS_READ:]
    return [forecast for _, run in newest for forecast in read_forecasts(run)]
