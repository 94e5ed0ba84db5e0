"""Compares the fingerprints of two operands: by part, and field by field if the preimages are known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrun.provenance.fingerprint import PARTS, Change, Fingerprint, compare
from llmrun.run.history import effective_segments
from llmrun.run.record import RunRecord
from llmrun.storage.checkpoint.manifest import CheckpointManifest


@dataclass(frozen=True)
class FingerprintSpan:
    """Consecutive steps of a run under one fingerprint, from `from_step` + 1 on.

    preimages: of all parts; None if they are not known.
    """

    from_step: int
    digest: str
    parts: Mapping[str, str]
    preimages: Mapping[str, Any] | None


@dataclass(frozen=True)
class FingerprintComparison:
    """The comparison of the fingerprints of A and B.

    equal:    whether both are equal over the whole length; None if one is not known.
    a, b:     the spans of each.
    parts:    the parts that differ.
    changes:  the fields that differ, if the preimages are known.
    """

    equal: bool | None
    a: tuple[FingerprintSpan, ...]
    b: tuple[FingerprintSpan, ...]
    parts: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


def fingerprint_spans(record: RunRecord) -> tuple[FingerprintSpan, ...]:
    """The fingerprints under which the steps of a run were made, in the order of steps.

    A segment replaces what earlier ones did after its first step.  Adjacent equal fingerprints are one span.
    """
    own, segments = record.fingerprint, effective_segments(record)
    spans = [
        FingerprintSpan(segment.from_step, segment.fingerprint, segment.parts, record.preimages_of(segment))
        for segment in segments
    ]
    if not segments or segments[0].from_step > 0:
        spans.insert(0, FingerprintSpan(0, own["digest"], own["parts"], own["preimages"]))
    return tuple(
        span for index, span in enumerate(spans) if index == 0 or span.digest != spans[index - 1].digest
    )


def fingerprint_of_checkpoint(manifest: CheckpointManifest) -> tuple[FingerprintSpan, ...]:
    """The fingerprint in a checkpoint's manifest, as one span."""
    return (FingerprintSpan(0, manifest.fingerprint, manifest.parts, None),)


def compare_fingerprints(
    a: tuple[FingerprintSpan, ...], b: tuple[FingerprintSpan, ...]
) -> FingerprintComparison:
    """Compare the fingerprints of two runs; `parts` and `changes` are those of the first spans that differ."""
    if not a or not b:
        return FingerprintComparison(None, a, b)
    if [(span.from_step, span.digest) for span in a] == [(span.from_step, span.digest) for span in b]:
        return FingerprintComparison(True, a, b)
    pairs = [*zip(a, b, strict=False), (a[-1], b[-1])]
    old, new = next((pair for pair in pairs if pair[0].digest != pair[1].digest), pairs[0])
    parts = tuple(part for part in PARTS if old.parts.get(part) != new.parts.get(part))
    return FingerprintComparison(False, a, b, parts, tuple(_changes(old, new)))


def _changes(old: FingerprintSpan, new: FingerprintSpan) -> list[Change]:
    """The fields that differ; [] if the preimages are not known."""
    known = all(span.preimages is not None and set(span.preimages) == set(PARTS) for span in (old, new))
    if not known or old.preimages is None or new.preimages is None:
        return []
    return compare(Fingerprint(old.preimages), Fingerprint(new.preimages))
