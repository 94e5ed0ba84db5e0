"""Compares the fingerprints of two subjects: parts, and where the preimages are known, field by field."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.provenance.fingerprint import PARTS, Change, Fingerprint, compare
from llmrun.run.history import effective_segments
from llmrun.run.record import RunRecord
from llmrun.storage.checkpoint.manifest import CheckpointManifest


@dataclass(frozen=True)
class Era:
    """The steps of a run under one fingerprint.

    from_step: finished steps at its start.  preimages: of all parts; None where they are not known.
    """

    from_step: int
    digest: str
    parts: Mapping[str, str]
    preimages: Mapping[str, Any] | None


@dataclass(frozen=True)
class Fingerprints:
    """What is known of the fingerprints of A and B.

    equal:    whether both are known and equal over the whole length; None where one is not known.
    a, b:     the eras of each.
    parts:    the parts that differ.
    changes:  the fields that differ, where the preimages are known.
    """

    equal: bool | None
    a: tuple[Era, ...]
    b: tuple[Era, ...]
    parts: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


def eras_of_run(record: RunRecord) -> tuple[Era, ...]:
    """The fingerprints that the steps of a run were made under, in the order of steps.

    A segment replaces what earlier ones did beyond its start.  Neighbours that are equal are one era.
    """
    own, segments = record.fingerprint, effective_segments(record)
    eras = [
        Era(segment.from_step, segment.fingerprint, segment.parts, record.preimages_of(segment))
        for segment in segments
    ]
    if not segments or segments[0].from_step > 0:
        eras.insert(0, Era(0, own["digest"], own["parts"], own["preimages"]))
    return tuple(era for index, era in enumerate(eras) if index == 0 or era.digest != eras[index - 1].digest)


def era_of_checkpoint(manifest: CheckpointManifest) -> tuple[Era, ...]:
    """The fingerprint in a checkpoint's manifest."""
    return (Era(0, manifest.fingerprint, manifest.parts, None),)


def compare_eras(a: tuple[Era, ...], b: tuple[Era, ...]) -> Fingerprints:
    """Compare two histories of fingerprints; what differs is told of the first pair of eras that differs."""
    if not a or not b:
        return Fingerprints(None, a, b)
    if [(era.from_step, era.digest) for era in a] == [(era.from_step, era.digest) for era in b]:
        return Fingerprints(True, a, b)
    pairs = [*zip(a, b, strict=False), (a[-1], b[-1])]
    old, new = next((pair for pair in pairs if pair[0].digest != pair[1].digest), pairs[0])
    parts = tuple(part for part in PARTS if old.parts.get(part) != new.parts.get(part))
    return Fingerprints(False, a, b, parts, tuple(_changes(old, new)))


def _changes(old: Era, new: Era) -> list[Change]:
    """The fields that differ; [] where the preimages are not known."""
    known = all(era.preimages is not None and set(era.preimages) == set(PARTS) for era in (old, new))
    if not known or old.preimages is None or new.preimages is None:
        return []
    return compare(Fingerprint(old.preimages), Fingerprint(new.preimages))
