"""What the steps of a run were made with, from what the run recorded: for executing them again.

Only run.json and the orders of its segments are read, never config.yaml, which people edit.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llmrun.config.field_values import numeric_fields
from llmrun.config.schema import Config
from llmrun.errors import DamagedError, RefusedError
from llmrun.provenance.fingerprint import Fingerprint, digest_of
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord, Segment, contradictions_of, read_record
from llmrun.run.worker_spec import settings_of_segment


@dataclass(frozen=True)
class Stretch:
    """Neighbouring steps that were made under one fingerprint: steps `from_step` + 1 to `to_step`.

    segment: the last of the segments that made them.
    """

    segment: Segment
    from_step: int
    to_step: int


def stretches_of(record: RunRecord, last_step: int) -> list[Stretch]:
    """The stretches of a run's steps up to `last_step`, ascending, without gaps.

    A segment replaces what earlier ones did beyond its start.
    """
    starts: list[Segment] = []
    for segment in record.segments:
        starts = [*(kept for kept in starts if kept.from_step < segment.from_step), segment]
    ends = [*(segment.from_step for segment in starts[1:]), last_step]
    found: list[Stretch] = []
    for segment, end in zip(starts, ends, strict=True):
        to_step = min(end, last_step)
        if found and found[-1].segment.fingerprint == segment.fingerprint:
            found[-1] = Stretch(segment, found[-1].from_step, to_step)
        elif segment.from_step < to_step:
            found.append(Stretch(segment, segment.from_step, to_step))
    return found


def believed_record(run: RunDirectory) -> RunRecord:
    """run.json of a run that a launch builds on.

    Raises InputError if it is no run record, RefusedError if it contradicts itself.
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


def recorded_config(run: RunDirectory, record: RunRecord, segment: Segment) -> Config:
    """The resolved config of a segment: its numeric fields are those of its fingerprint.

    From the segment's orders; where these are gone or not as they were, from run.json.
    Raises RefusedError where neither gives the config of the fingerprint.
    """
    preimage = record.preimages_of(segment)["config"]
    for document in candidates(run, record, segment):
        try:
            config = Config.model_validate_json(json.dumps(document))
            numeric = numeric_fields(config)
        except (ValidationError, AssertionError):
            continue
        if digest_of(numeric) == digest_of(preimage):
            return config
    raise RefusedError(
        f"the config of segment {segment.segment} cannot be told: neither its orders nor run.json hold it",
        where=str(run.worker_spec_file(segment.segment)),
        hints=["restore the run's `logs/` and run.json from a copy"],
    )


def candidates(run: RunDirectory, record: RunRecord, segment: Segment) -> Iterator[dict[str, Any]]:
    """Configs that may be those of a segment, the likeliest first."""
    settings = settings_of_segment(run.worker_spec_file(segment.segment))
    if settings is not None:
        yield settings.config
    own: Any = record.config  # a file that people may have edited
    if isinstance(own, dict):
        yield own
        yield merged(own, record.preimages_of(segment)["config"])


def merged(config: Mapping[str, Any], numeric: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the fields of `numeric`, whose names are ASCII, in the place of its own."""
    kept = {_ASCII.get(name, name): value for name, value in config.items()}
    for name, value in numeric.items():
        below = kept.get(name)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        kept[name] = merged(below, value) if nested else value  # type: ignore[arg-type]
    return kept


_ASCII = {"GB_tok": "gb_tok", "μ_tok": "mu_tok"}
"""How the preimage spells what a dumped config writes in the user's symbols."""
