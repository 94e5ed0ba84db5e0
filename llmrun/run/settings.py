"""What a run goes on with: the config and the dataset of its last segment, with everything that was set since."""

from pathlib import Path
from typing import Any

from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.run.worker_spec import SegmentSettings, settings_of_segment


def config_in_force(run: RunDirectory, record: RunRecord) -> dict[str, Any]:
    """The full resolved config of the last segment, dumped by alias; the run's own where there is none."""
    settings = _settings(run, record)
    return record.config if settings is None else settings.config


def dataset_places(run: RunDirectory, record: RunRecord) -> list[Path]:
    """Where the run's dataset may lie, the likeliest first.

    Where the last segment found it; else its path from where the run was started, and from here.
    """
    settings = _settings(run, record)
    found = [] if settings is None else [Path(settings.data_path)]
    written = config_in_force(run, record)["data"]["path"]
    return [*found, Path(record.working_directory) / written, Path.cwd() / written]


def _settings(run: RunDirectory, record: RunRecord) -> SegmentSettings | None:
    """What the last segment ran with; None where there is none, or its orders are gone."""
    last = record.last
    return None if last is None else settings_of_segment(run.worker_spec_file(last.segment))
