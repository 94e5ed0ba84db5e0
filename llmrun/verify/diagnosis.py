"""Diagnoses a difference: which inputs were equal, which module the differing tensors belong to, how tokens differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmrun.core.order import Order
from llmrun.core.parameter_groups import MOMENT_SUFFIXES
from llmrun.core.windows import Split
from llmrun.data.manifest import fingerprint_of, read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.errors import LlmrunError
from llmrun.run.directory import RunDirectory
from llmrun.run.history import dataset_paths
from llmrun.run.record import RunRecord
from llmrun.storage.ledger.changed_word import digest_of_words, find_changed_word
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.storage.ledger.explain import Explanation, explain
from llmrun.text import counted, listed
from llmrun.verify.differing_tensors import DifferingTensors, ElementChange
from llmrun.verify.fingerprints import FingerprintComparison
from llmrun.verify.operands import Operand

FORWARD = (
    "embed_tokens", "embed_positions", "layers",
    "input_layernorm", "self_attn", "post_attention_layernorm", "mlp",
    "norm", "lm_head",
)  # fmt: skip
"""The parts of the built-in model in the order of the forward pass."""


@dataclass(frozen=True)
class ModelPart:
    """The part of the model that differing tensors point at.

    module:  such as `model.layers.3.self_attn`.
    others:  the number of differing parameters outside it.
    """

    module: str
    others: int = 0


def parameter_of(tensor: str) -> str:
    """The parameter that a tensor of a checkpoint belongs to: itself, or that of a moment."""
    return next(
        (tensor.removesuffix(moment) for moment in MOMENT_SUFFIXES if tensor.endswith(moment)), tensor
    )


def module_of(parameter: str) -> str:
    """The module of a parameter: `model.layers.3.self_attn` for each parameter in it."""
    parts = parameter.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    end = numbers[0] + 2 if numbers else len(parts) - 1
    return ".".join(parts[: min(end, len(parts) - 1)]) or parameter


def first_in_backward(tensors: Sequence[str]) -> ModelPart | None:
    """The module that the backward pass reaches first among those whose gradients differ.

    An error in a module's backward pass changes the gradients of the module and of all modules before it in the
    forward pass, never of those after it.
    """
    if not tensors:
        return None
    if len(tensors) == 1:
        return ModelPart(parameter_of(tensors[0]))
    parameters = dict.fromkeys(parameter_of(tensor) for tensor in tensors)
    module = max((module_of(parameter) for parameter in parameters), key=forward_place)
    return ModelPart(module, sum(module_of(parameter) != module for parameter in parameters))


def shared_module(tensors: Iterable[str]) -> ModelPart | None:
    """The one parameter or module to which all tensors belong; None if there are several."""
    parameters = list(dict.fromkeys(parameter_of(tensor) for tensor in tensors))
    if len(parameters) == 1:
        return ModelPart(parameters[0])
    modules = {module_of(parameter) for parameter in parameters}
    return ModelPart(modules.pop()) if len(modules) == 1 else None


def forward_place(module: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key: the order of modules in the forward pass.  Parts with unknown names are in alphabetical order."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (FORWARD.index(part) if part in FORWARD else 1, 0, part)
        for part in module.split(".")
    )


WORDS_MAX = 2**28
"""Most words that are digested to find by how many places the order is shifted."""

SHIFT_MAX = 64

DetailKind = Literal["one_token", "other_step", "sample_order", "learning_rate"]


@dataclass(frozen=True)
class Detail:
    """What is known of the tokens or the learning rates that differ."""

    kind: DetailKind
    text: str


@dataclass(frozen=True)
class _BatchShape:
    """The tokens of a step.  samples: sequences per step; words: tokens of a sequence and its last target."""

    samples: int
    per_micro_batch: int
    words: int


def explain_tokens(a: Operand, b: Operand, difference: RecordDifference) -> Detail | None:
    """What ledgers, configs and datasets tell of the tokens that differ; None if nothing does."""
    digests = {"A": difference.a.tokens_digest, "B": difference.b.tokens_digest}
    if a.record is None or b.record is None or None in digests.values():
        return None
    shape = _shape(a.record)
    if shape is None or shape != _shape(b.record):
        return None
    return (
        _one_token(shape, difference)
        or _other_step(a, difference)
        or _against_the_order(a, b, shape, difference)
    )


def _shape(record: RunRecord) -> _BatchShape | None:
    """The shape of a step from the config in run.json; None if the config does not hold it."""
    try:
        L_ctx, gb_tok, mu_tok = (int(record.config["batch"][key]) for key in ("L_ctx", "GB_tok", "μ_tok"))
    except (KeyError, TypeError, ValueError):
        return None
    return _BatchShape(gb_tok // L_ctx, mu_tok // L_ctx, L_ctx + 1)


def _one_token(shape: _BatchShape, difference: RecordDifference) -> Detail | None:
    """The one token that explains both digests."""
    digest_a, digest_b = difference.a.tokens_digest, difference.b.tokens_digest
    assert digest_a is not None
    assert digest_b is not None
    change = find_changed_word(digest_a, digest_b, shape.samples * shape.words)
    if change is None:
        return None
    sample, token = divmod(change.index, shape.words)
    number, sequence = divmod(sample, shape.per_micro_batch)
    return Detail(
        "one_token",
        f"one token differs ({change.change:+d} in B): token {token} of sequence {sequence} of micro-batch {number}",
    )


def _other_step(a: Operand, difference: RecordDifference) -> Detail | None:
    """The step of A that has the tokens of B's step."""
    assert a.ledger is not None
    tokens = a.ledger.array["tokens_digest"]
    (found,) = np.nonzero(tokens == np.uint64(difference.b.tokens_digest or 0))
    if not len(found):
        return None
    return Detail("other_step", f"B has the tokens that A had in step {a.ledger.first_step + int(found[0])}")


def explain_rate(a: Operand, difference: RecordDifference) -> Detail | None:
    """The step at which A used the learning rate that B uses at the differing step; None if there is none."""
    if difference.fields[0] != "learning_rate" or a.ledger is None:
        return None
    (found,) = np.nonzero(a.ledger.array["learning_rate"] == difference.b.learning_rate)
    steps = [a.ledger.first_step + int(index) for index in found]
    if not steps:
        return None
    nearest = min(steps, key=lambda step: abs(step - difference.step))
    return Detail("learning_rate", f"that of B is A's of step {nearest}")


def _against_the_order(
    a: Operand, b: Operand, shape: _BatchShape, difference: RecordDifference
) -> Detail | None:
    """Which run has the samples that seed and dataset prescribe, and the offset of the other in the sample order."""
    stated = {"A": difference.a.tokens_digest, "B": difference.b.tokens_digest}
    places = [place for s in (a, b) if s.record for place in dataset_paths(RunDirectory(s.path), s.record)]
    shifts = {
        s.label: _shift_of(s.record, places, shape, difference.step, stated[s.label])
        for s in (a, b)
        if s.record
    }
    right = [label for label, shift in shifts.items() if shift == 0]
    if len(right) != 1:
        return None
    ((wrong, shift),) = ((label, shift) for label, shift in shifts.items() if label not in right)
    message = f"{right[0]} has the samples that seed and dataset prescribe"
    if shift is None:
        return Detail("sample_order", f"{message}, {wrong} has others")
    where, why = ("later", "skipped") if shift > 0 else ("earlier", "repeated")
    return Detail(
        "sample_order",
        f"{message}, those of {wrong} are {counted(abs(shift), 'place')} {where} in the order: samples were {why}",
    )


def _shift_of(
    record: RunRecord, places: Sequence[Path], shape: _BatchShape, step: int, digest: int | None
) -> int | None:
    """The offset of a step's samples in the sample order, at most 64 places; None if they are found at none."""
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
    record: RunRecord, places: Sequence[Path], shape: _BatchShape, start: int, count: int
) -> NDArray[np.int32] | None:
    """The samples at `count` places of the order: int32 [count, words]; None if they cannot be read."""
    opened = _open(record, places, shape)
    if opened is None:
        return None
    split, order = opened
    try:
        return np.stack([split.window(int(w)) for w in order.entries(start, count)])
    except (LlmrunError, OSError):
        return None


def _open(record: RunRecord, places: Sequence[Path], shape: _BatchShape) -> tuple[Split, Order] | None:
    """The training split of a run and its sample order; None if no place of `places` holds its dataset."""
    found = (_split_of(place, record, shape) for place in places)
    split = next((split for split in found if split is not None), None)
    return None if split is None else (split, Order(int(record.config["seed"]), split.n_windows))


def _split_of(place: Path, record: RunRecord, shape: _BatchShape) -> Split | None:
    try:
        manifest = read_manifest(place)
        if fingerprint_of(manifest) != record.fingerprint["preimages"]["data"]:
            return None
        return open_split(place, manifest, "train", shape.words - 1, verify=False)
    except (LlmrunError, OSError):
        return None


_CHANGES_MAX = 3
_ORDER_FIELDS = ("seed", "batch.", "data.", "T_tokens")
"""Prefixes of the config fields that decide which samples a step has."""


def place_of(difference: RecordDifference, tensors: DifferingTensors) -> ModelPart | None:
    """The part of the model that the differing tensors point at; None if they are not of the differing quantity."""
    if tensors.step != difference.step or tensors.quantity is None or not tensors.names:
        return None
    if difference.quantity == "gradients" and tensors.quantity == "gradients":
        return first_in_backward(tensors.names)
    if difference.quantity in {tensors.quantity, "gradients"}:
        return shared_module(tensors.names)
    return None


def diagnose(
    difference: RecordDifference,
    fingerprints: FingerprintComparison,
    tensors: DifferingTensors,
    detail: Detail | None = None,
    equal_again: int | None = None,
) -> str:
    """The first difference of two ledgers in words.

    equal_again:  the step from which on all records are equal.
    """
    place = place_of(difference, tensors)
    explanation = explain(difference, _where(place, tensors))
    if difference.quantity == "data" and _same_order(fingerprints):
        what = "data differ" if detail and detail.kind == "one_token" else "data order differs"
        fact = f"{what} from step {difference.step} although dataset and seed are equal"
        explanation = Explanation(fact, explanation.guess)
    if detail is not None:
        message = f"{explanation.fact}: {detail.text}"
    elif fingerprints.equal is False:
        message = explanation.fact
    else:
        message = str(explanation)
    again = "" if equal_again is None else f"; all records are equal again from step {equal_again} on"
    return f"{message}{again}; {cause(fingerprints)}"


def _where(place: ModelPart | None, tensors: DifferingTensors) -> str:
    """The module and the number of parameters that differ outside it; or the tensor and its one changed element."""
    if place is None:
        return ""
    if len(tensors.changes) == 1 and len(tensors.names) == 1:
        return f"{place.module} {describe_element(tensors.changes[0])}"
    if not place.others:
        return place.module
    return f"{place.module} (and in {place.others} parameters before it, which its backward pass reaches)"


def describe_element(change: ElementChange) -> str:
    """`[3, 5] alone, by 1 ulp`; a power of two also by its bit."""
    size = abs(change.ulps)
    bit = f" (bit {size.bit_length() - 1})" if size & (size - 1) == 0 and size > 1 else ""
    return f"[{', '.join(map(str, change.index))}] alone, by {counted(size, 'ulp')}{bit}"


def _same_order(fingerprints: FingerprintComparison) -> bool:
    """Whether no known difference of the fingerprints decides which samples a step has."""
    if fingerprints.equal is None or "data" in fingerprints.parts:
        return False
    known = fingerprints.equal or fingerprints.changes or "config" not in fingerprints.parts
    return bool(known) and not any(
        change.part == "config" and change.key.startswith(_ORDER_FIELDS) for change in fingerprints.changes
    )


def cause(fingerprints: FingerprintComparison) -> str:
    """What the fingerprints say about the cause of a difference."""
    if fingerprints.equal is None:
        return "the fingerprints are unknown"
    if fingerprints.equal:
        return "the fingerprints are equal, so config, data, code and environment are not the cause"
    parts = " and ".join(fingerprints.parts) or "the steps they apply to"
    changes = listed([str(change) for change in fingerprints.changes], _CHANGES_MAX)
    return f"the fingerprints differ in {parts}{f' ({changes})' if changes else ''}"
