"""Says how the tokens of a step differ: against what seed and dataset prescribe, and between two runs.

Sample i of a step is entry (step - 1)·samples + i of the order (docs/data-format.md), so what a step should have
seen can be computed again, wherever the dataset lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.data.manifest import fingerprint_of, read_manifest
from llmrun.data.order import Order
from llmrun.data.windows import Split
from llmrun.errors import LlmrunError
from llmrun.ledger.compare import Difference
from llmrun.ledger.constants import digest_of_words
from llmrun.ledger.single_word import find_changed_word
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord
from llmrun.run.settings import dataset_places
from llmrun.verify.subject import Subject

WORDS_MAX = 2**28
"""Most words that are digested to find by how many places the order is shifted."""

SHIFT_MAX = 64
ONE_CHANGED = "one token is another"


@dataclass(frozen=True)
class _Shape:
    """What a step reads.  samples: sequences per step; words: tokens of one, with its last target."""

    samples: int
    per_micro_batch: int
    words: int


def explain_tokens(a: Subject, b: Subject, difference: Difference) -> str:
    """What is known of the tokens that differ; "" where nothing is."""
    digests = {"A": difference.a.tokens_digest, "B": difference.b.tokens_digest}
    if a.record is None or b.record is None or None in digests.values():
        return ""
    shape = _shape(a.record)
    if shape is None or shape != _shape(b.record):
        return ""
    return (
        _one_token(shape, difference)
        or _other_step(a, difference)
        or _against_the_order(a, b, shape, difference)
    )


def _shape(record: RunRecord) -> _Shape | None:
    """What the config in run.json says of a step; None where it does not."""
    try:
        L_ctx, gb_tok, mu_tok = (int(record.config["batch"][key]) for key in ("L_ctx", "GB_tok", "μ_tok"))
    except (KeyError, TypeError, ValueError):
        return None
    return _Shape(gb_tok // L_ctx, mu_tok // L_ctx, L_ctx + 1)


def _one_token(shape: _Shape, difference: Difference) -> str:
    """One token changed: the digests alone tell which."""
    digest_a, digest_b = difference.a.tokens_digest, difference.b.tokens_digest
    assert digest_a is not None
    assert digest_b is not None
    change = find_changed_word(digest_a, digest_b, shape.samples * shape.words)
    if change is None:
        return ""
    sample, token = divmod(change.index, shape.words)
    number, sequence = divmod(sample, shape.per_micro_batch)
    return f"{ONE_CHANGED} ({change.change:+d} in B): token {token} of sequence {sequence} of micro-batch {number}"


def _other_step(a: Subject, difference: Difference) -> str:
    """The whole step is one that the other run made before or after."""
    assert a.ledger is not None
    tokens = a.ledger.array["tokens_digest"]
    (found,) = np.nonzero(tokens == np.uint64(difference.b.tokens_digest or 0))
    if not len(found):
        return ""
    return f"B has the tokens that A had in step {a.ledger.first_step + int(found[0])}"


def explain_rate(a: Subject, difference: Difference) -> str:
    """Where A used the learning rate that B uses at the differing step; "" where it did not."""
    if difference.fields[0] != "learning_rate" or a.ledger is None:
        return ""
    (found,) = np.nonzero(a.ledger.array["learning_rate"] == difference.b.learning_rate)
    steps = [a.ledger.first_step + int(index) for index in found]
    if not steps:
        return ""
    nearest = min(steps, key=lambda step: abs(step - difference.step))
    return f"that of B is A's of step {nearest}"


def _against_the_order(a: Subject, b: Subject, shape: _Shape, difference: Difference) -> str:
    """Which of the two has what seed and dataset prescribe, and by how many places the other is off."""
    stated = {"A": difference.a.tokens_digest, "B": difference.b.tokens_digest}
    places = [place for s in (a, b) if s.record for place in dataset_places(RunDirectory(s.path), s.record)]
    shifts = {
        s.label: _shift_of(s.record, places, shape, difference.step, stated[s.label])
        for s in (a, b)
        if s.record
    }
    right = [label for label, shift in shifts.items() if shift == 0]
    if len(right) != 1:
        return ""
    ((wrong, shift),) = ((label, shift) for label, shift in shifts.items() if label not in right)
    says = f"{right[0]} has the samples that seed and dataset prescribe"
    if shift is None:
        return f"{says}, {wrong} has others"
    distance = f"{abs(shift)} place{'' if abs(shift) == 1 else 's'}"
    where, why = ("later", "skipped") if shift > 0 else ("earlier", "repeated")
    return f"{says}, those of {wrong} stand {distance} {where} in the order: samples were {why}"


def _shift_of(
    record: RunRecord, places: Sequence[Path], shape: _Shape, step: int, digest: int | None
) -> int | None:
    """By how many places the samples of a step lie beside the prescribed ones; None where by none of those tried."""
    start = (step - 1) * shape.samples
    most = min(SHIFT_MAX, WORDS_MAX // (2 * shape.samples * shape.words))
    before = min(most, start)
    tokens = _read(record, places, shape, start - before, before + shape.samples + most)
    for shift in sorted(range(-before, most + 1), key=abs):
        first = before + shift
        if tokens is not None and digest_of_words(tokens[first : first + shape.samples]) == digest:
            return shift
    return None


def _read(
    record: RunRecord, places: Sequence[Path], shape: _Shape, start: int, count: int
) -> NDArray[np.int32] | None:
    """The samples at `count` places of the order: int32 [count, words]; None where they cannot be read."""
    opened = _open(record, places, shape)
    if opened is None:
        return None
    split, order = opened
    try:
        return np.stack([split.window(int(w)) for w in order.entries(start, count)])
    except (LlmrunError, OSError):
        return None


def _open(record: RunRecord, places: Sequence[Path], shape: _Shape) -> tuple[Split, Order] | None:
    """The dataset of a run, where it still lies at one of `places`, and the order of its windows."""
    found = (_split_of(place, record, shape) for place in places)
    split = next((split for split in found if split is not None), None)
    return None if split is None else (split, Order(int(record.config["seed"]), split.n_windows))


def _split_of(place: Path, record: RunRecord, shape: _Shape) -> Split | None:
    try:
        manifest = read_manifest(place)
        if fingerprint_of(manifest) != record.fingerprint["preimages"]["data"]:
            return None
        return Split(place, manifest, "train", shape.words - 1, verify=False)
    except (LlmrunError, OSError):
        return None
