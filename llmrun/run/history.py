"""The segments of a run: which steps each of them made, and with which config, dataset and fingerprint.

From run.json and the segments' orders.json; never from config.yaml, which people edit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrun.config.field_values import numeric_fields
from llmrun.config.schema import Config
from llmrun.errors import DamagedError, RefusedError
from llmrun.provenance.fingerprint import Fingerprint, digest_of
from llmrun.run.directory import RunDirectory
from llmrun.run.origin import without_origin
from llmrun.run.record import RunRecord, Segment, contradictions_of, read_record
from llmrun.run.worker_spec import SegmentSettings, read_segment_settings


@dataclass(frozen=True)
class StepRange:
    """Consecutive steps that were made under one fingerprint: steps `from_step` + 1 to `to_step`.

    segment: the last of the segments that made them.
    """

    segment: Segment
    from_step: int
    to_step: int


def effective_segments(record: RunRecord) -> list[Segment]:
    """The segments that made the steps of a run as it is now, by start step.

    A segment replaces what earlier ones did beyond its start.
    """
    kept: list[Segment] = []
    for segment in record.segments:
        kept = [*(earlier for earlier in kept if earlier.from_step < segment.from_step), segment]
    return kept


def step_ranges(record: RunRecord, last_step: int) -> list[StepRange]:
    """The steps of a run up to `last_step` by fingerprint, ascending, without gaps."""
    segments = effective_segments(record)
    ends = [*(segment.from_step for segment in segments[1:]), last_step]
    found: list[StepRange] = []
    for segment, end in zip(segments, ends, strict=True):
        to_step = min(end, last_step)
        if found and found[-1].segment.fingerprint == segment.fingerprint:
            found[-1] = StepRange(segment, found[-1].from_step, to_step)
        elif segment.from_step < to_step:
            found.append(StepRange(segment, segment.from_step, to_step))
    return found


def read_record_or_refuse(run: RunDirectory) -> RunRecord:
    """run.json of a run that a launch continues.

    Raises InputError if it is not a run record, RefusedError if it contradicts itself.
    """
    try:
        return read_record(run.record_file)
    except DamagedError as error:
        raise RefusedError(
            error.message, where=error.where, caused_by=error.caused_by, hints=error.hints
        ) from error


def recorded_fingerprint(run: RunDirectory, record: RunRecord, segment: Segment) -> Fingerprint:
    """The fingerprint of a segment with its preimages.  Raises DamagedError if run.json contradicts itself."""
    found = contradictions_of(record)
    if found:
        raise DamagedError(
            f"run.json of {run.name} contradicts itself: {found[0]}",
            where=str(run.record_file),
            caused_by=found[1:],
        )
    return Fingerprint(record.preimages_of(segment))


def config_in_force(run: RunDirectory, record: RunRecord) -> dict[str, Any]:
    """The full resolved config of the last segment, dumped by alias; the run's own if there is none or it is lost."""
    config = config_of_segment(run, record, record.last)
    return record.config if config is None else config


def config_of_segment(run: RunDirectory, record: RunRecord, segment: Segment | None) -> dict[str, Any] | None:
    """The full resolved config of a segment, None if its orders.json is gone; that of the run if `segment` is None."""
    if segment is None:
        return record.config
    settings = _settings(run, segment)
    return None if settings is None else settings.config


def dataset_paths(run: RunDirectory, record: RunRecord) -> list[Path]:
    """Where the run's dataset may be, the most likely path first.

    Where the last segment found it, then its path in the config relative to the directory of the first start, then
    relative to the current one.
    """
    settings = None if record.last is None else _settings(run, record.last)
    found = [] if settings is None else [Path(settings.data_path)]
    written = config_in_force(run, record)["data"]["path"]
    return [*found, Path(record.working_directory) / written, Path.cwd() / written]


def recorded_config(run: RunDirectory, record: RunRecord, segment: Segment) -> Config:
    """The resolved config of a segment, whose numeric fields have the digest in its fingerprint.

    From the segment's orders.json, or from run.json if that is gone or was edited.
    Raises RefusedError if neither has the config of the fingerprint.
    """
    recorded = without_origin(record.preimages_of(segment)["config"])
    for document in _candidates(run, record, segment):
        try:
            config = Config.model_validate_json(json.dumps(document))
            numeric = numeric_fields(config)
        except (ValidationError, AssertionError):
            continue
        if digest_of(numeric) == digest_of(recorded):
            return config
    raise RefusedError(
        f"the config of segment {segment.segment} is lost: neither its orders.json nor run.json has it",
        where=str(run.worker_spec_file(segment.segment)),
        hints=["restore the run's `logs/` and run.json from a copy"],
    )


def _settings(run: RunDirectory, segment: Segment) -> SegmentSettings | None:
    return read_segment_settings(run.worker_spec_file(segment.segment))


def _candidates(run: RunDirectory, record: RunRecord, segment: Segment) -> Iterator[dict[str, Any]]:
    """Configs that may be that of a segment, the most likely first."""
    settings = _settings(run, segment)
    if settings is not None:
        yield settings.config
    own: Any = record.config  # a file that people may have edited
    if isinstance(own, dict):
        yield own
        yield _merged(own, without_origin(record.preimages_of(segment)["config"]))


def _merged(config: Mapping[str, Any], numeric: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with its numeric fields replaced by `numeric`, whose names are ASCII."""
    kept = {_ASCII.get(name, name): value for name, value in config.items()}
    for name, value in numeric.items():
        below = kept.get(name)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        kept[name] = _merged(below, value) if nested else value  # type: ignore[arg-type]
    return kept


_ASCII = {"GB_tok": "gb_tok", "μ_tok": "mu_tok"}
"""Names in a dumped config, with those that the preimage of the fingerprint has for them."""
