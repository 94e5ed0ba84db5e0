"""forecast.json: what was planned for each segment of a run and what was measured (docs/run-directory.md).

Format `llmrun-forecast/1`.  Only later plans use it; a missing or damaged file is ignored.
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
"""The most runs of a directory that are read, newest first."""


def write_forecasts(path: Path, forecasts: Sequence[Forecast]) -> None:
    """Write the file atomically and durably.  Raises OSError."""
    segments = [{key: value for key, value in asdict(f).items() if key != "run"} for f in forecasts]
    replace_json(path, {"format": FORECAST_FORMAT, "segments": segments})


def read_forecasts(run: RunDirectory) -> list[Forecast]:
    """The forecasts of a run, by segment; [] if the file is missing, damaged or of another format."""
    try:
        document = json.loads(run.forecast_file.read_text(encoding="utf-8"))
        if document["format"] != FORECAST_FORMAT:
            return []
        return [_forecast(run.name, segment) for segment in document["segments"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _forecast(run: str, segment: dict[str, Any]) -> Forecast:
    """The forecast of one segment.  Raises KeyError, TypeError or ValueError."""
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
    """The forecasts of the newest RUNS_READ runs directly below a directory."""
    found = []
    for run in runs_below(runs_dir):
        try:
            found.append((run.forecast_file.stat().st_mtime, run))
        except OSError:
            continue
    newest = sorted(found, key=lambda entry: entry[0])[-RUNS_READ:]
    return [forecast for _, run in newest for forecast in read_forecasts(run)]
