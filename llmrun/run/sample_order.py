"""Which windows of the dataset the steps of a run see, computed from the run's record and the dataset's manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmrun.core.order import Order
from llmrun.core.windows import count_windows
from llmrun.data.manifest import DatasetManifest, fingerprint_of, read_manifest
from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_of_segment, dataset_paths, effective_segments
from llmrun.run.record import RunRecord, Segment


@dataclass(frozen=True)
class OrderEntry:
    """One sequence of a step.

    step:     from 1.                  sequence: its number in the step, from 0.
    position: in the order of the run. epoch, window: of the training split.
    tokens:   the window in the stream, [first, end).
    """

    step: int
    sequence: int
    position: int
    epoch: int
    window: int
    tokens: tuple[int, int]


def samples_of_steps(run: RunDirectory, record: RunRecord, first: int, last: int) -> Iterator[OrderEntry]:
    """Yield the sequences of steps [first, last] in order.

    A step that was made is that of the segment that made it; a step to come is that of the last segment.
    Raises InputError if a dataset or a config is not found, or if a step is beyond the last of the run.
    """
    if last > record.steps:
        raise InputError(f"the last step of {run.name} is {record.steps:,}, got {last:,}")
    segments: list[Segment | None] = [*effective_segments(record)] or [None]
    starts = [0 if segment is None else segment.from_step for segment in segments]
    starts[0] = 0
    for segment, (begin, end) in zip(segments, pairwise([*starts, last]), strict=True):
        steps = range(max(first, begin + 1), min(last, end) + 1)
        if steps:
            yield from _samples(run, record, segment, steps)


def _samples(
    run: RunDirectory, record: RunRecord, segment: Segment | None, steps: range
) -> Iterator[OrderEntry]:
    """The sequences of steps of one segment."""
    config = config_of_segment(run, record, segment)
    if config is None:
        assert segment is not None
        raise InputError(
            f"the config of segment {segment.segment} of {run.name} is lost: its orders.json is missing"
        )
    batch = config["batch"]
    L_ctx, per_step = int(batch["L_ctx"]), int(batch["GB_tok"]) // int(batch["L_ctx"])
    n_windows = count_windows(_dataset(run, record, segment).splits["train"].tokens, L_ctx)
    order = Order(int(config["seed"]), n_windows)
    for step in steps:
        start = (step - 1) * per_step
        for sequence, entry in enumerate(order.entries(start, per_step).tolist()):
            position = start + sequence
            tokens = (entry * L_ctx, entry * L_ctx + L_ctx + 1)
            yield OrderEntry(step, sequence, position, position // n_windows, entry, tokens)


def _dataset(run: RunDirectory, record: RunRecord, segment: Segment | None) -> DatasetManifest:
    """The manifest of the dataset that a segment was trained on.  Raises InputError if it is at none of its places."""
    expected: Any = record.preimages_of(segment)["data"]
    places = dataset_paths(run, record)
    for place in places:
        try:
            manifest = read_manifest(place, sizes=False)
        except InputError:
            continue
        if fingerprint_of(manifest) == expected:
            return manifest
    raise InputError(
        f"the dataset of {run.name} was not found",
        caused_by=[f"it is not at {place}" for place in dict.fromkeys(map(str, places))],
    )
