"""What a difference means: which inputs were equal, which module its tensors belong to, how tokens differ."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrun.core.order import Order
from llmrun.core.windows import Split
from llmrun.data.manifest import fingerprint_of, read_manifest
from llmrun.data.shard_reader import open_split
from llmrun.errors import LlmrunError
from llmrun.run.directory import RunDirectory
from llmrun.run.history import dataset_paths
from llmrun.run.record import RunRecord
from llmrun.storage.ledger.compare import RecordDifference
from llmrun.storage.ledger.explain import Explanation, explain
from llmrun.storage.ledger.word_search import digest_of_words, find_changed_word
from llmrun.verify.fingerprints import Fingerprints
from llmrun.verify.operands import Operand
from llmrun.verify.states import StateDifference
from llmrun.verify.tensor_diff import DifferingTensors, ElementChange

FORWARD = (
    "embed_tokens", "embed_positions", "layers",
    "input_layernorm", "self_attn", "post_attention_layernorm", "mlp",
    "norm", "lm_head",
)  # fmt: skip
"""The parts of our models in the order in which a forward pass reaches them; what is not named here keeps its place."""

MOMENTS = (".exp_avg", ".exp_avg_sq")


@dataclass(frozen=True)
class ModelPart:
    """Where tensors differ.

    module:  the part of the model, such as `model.layers.3.self_attn`.
    others:  further tensors that differ outside it.
    """

    module: str
    others: int = 0


def parameter_of(tensor: str) -> str:
    """The parameter that a tensor of a checkpoint belongs to: itself, or that of a moment."""
    return next((tensor.removesuffix(moment) for moment in MOMENTS if tensor.endswith(moment)), tensor)


def module_of(parameter: str) -> str:
    """The part of the model: `model.layers.3.self_attn` for each parameter in it."""
    parts = parameter.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    end = numbers[0] + 2 if numbers else len(parts) - 1
    return ".".join(parts[: min(end, len(parts) - 1)]) or parameter


def first_in_backward(tensors: Sequence[str]) -> ModelPart | None:
    """The module that a backward pass reaches first among those whose gradients differ.

    An error in a module's backward pass spoils the gradients of the module and of all before it in the
    forward pass, never of those behind it.  Token tables that also serve as output head come last.
    """
    if not tensors:
        return None
    if len(tensors) == 1:
        return ModelPart(parameter_of(tensors[0]))
    parameters = dict.fromkeys(parameter_of(tensor) for tensor in tensors)
    module = max((module_of(parameter) for parameter in parameters), key=forward_place)
    return ModelPart(module, sum(module_of(parameter) != module for parameter in parameters))


def shared_module(tensors: Iterable[str]) -> ModelPart | None:
    """The one tensor or module to which all belong; None where they are of several."""
    parameters = list(dict.fromkeys(parameter_of(tensor) for tensor in tensors))
    if len(parameters) == 1:
        return ModelPart(parameters[0])
    modules = {module_of(parameter) for parameter in parameters}
    return ModelPart(modules.pop()) if len(modules) == 1 else None


def forward_place(module: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts modules as a forward pass reaches them."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (FORWARD.index(part) if part in FORWARD else 1, 0, part)
        for part in module.split(".")
    )


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


def explain_tokens(a: Operand, b: Operand, difference: RecordDifference) -> str:
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


def _one_token(shape: _Shape, difference: RecordDifference) -> str:
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


def _other_step(a: Operand, difference: RecordDifference) -> str:
    """The whole step is one that the other run made before or after."""
    assert a.ledger is not None
    tokens = a.ledger.array["tokens_digest"]
    (found,) = np.nonzero(tokens == np.uint64(difference.b.tokens_digest or 0))
    if not len(found):
        return ""
    return f"B has the tokens that A had in step {a.ledger.first_step + int(found[0])}"


def explain_rate(a: Operand, difference: RecordDifference) -> str:
    """Where A used the learning rate that B uses at the differing step; "" where it did not."""
    if difference.fields[0] != "learning_rate" or a.ledger is None:
        return ""
    (found,) = np.nonzero(a.ledger.array["learning_rate"] == difference.b.learning_rate)
    steps = [a.ledger.first_step + int(index) for index in found]
    if not steps:
        return ""
    nearest = min(steps, key=lambda step: abs(step - difference.step))
    return f"that of B is A's of step {nearest}"


def _against_the_order(a: Operand, b: Operand, shape: _Shape, difference: RecordDifference) -> str:
    """Which of the two has what seed and dataset prescribe, and by how many places the other is off."""
    stated = {"A": difference.a.tokens_digest, "B": difference.b.tokens_digest}
    places = [place for s in (a, b) if s.record for place in dataset_paths(RunDirectory(s.path), s.record)]
    shifts = {
        s.label: _shift_of(s.record, places, shape, difference.step, stated[s.label])
        for s in (a, b)
        if s.record
    }
    right = [label for label, shift in shifts.items() if shift == 0]
    if len(right) != 1:
        return ""
    ((wrong, shift),) = ((label, shift) for label, shift in shifts.items() if label not in right)
    message = f"{right[0]} has the samples that seed and dataset prescribe"
    if shift is None:
        return f"{message}, {wrong} has others"
    distance = f"{abs(shift)} place{'' if abs(shift) == 1 else 's'}"
    where, why = ("later", "skipped") if shift > 0 else ("earlier", "repeated")
    return f"{message}, those of {wrong} stand {distance} {where} in the order: samples were {why}"


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
        return open_split(place, manifest, "train", shape.words - 1, verify=False)
    except (LlmrunError, OSError):
        return None


_CHANGES_MAX = 3
_ORDER_FIELDS = ("seed", "batch.", "data.", "T_tokens")
"""Fields of the config that decide which samples a step has."""


def place_of(difference: RecordDifference, tensors: DifferingTensors) -> ModelPart | None:
    """The part of the model that the differing tensors point at, where they are those of the differing quantity."""
    if tensors.step != difference.step or tensors.quantity is None or not tensors.names:
        return None
    if difference.quantity == "gradients" and tensors.quantity == "gradients":
        return first_in_backward(tensors.names)
    if difference.quantity in {tensors.quantity, "gradients"}:
        return shared_module(tensors.names)
    return None


def diagnose(
    difference: RecordDifference,
    fingerprints: Fingerprints,
    tensors: DifferingTensors,
    detail: str = "",
    equal_again: int | None = None,
) -> str:
    """The first difference of two ledgers in words.

    tensors:      those that differ, as far as it is known.
    detail:       what is known of the tokens or the learning rates that differ.
    equal_again:  the step from which on nothing differs any more.
    """
    place = place_of(difference, tensors)
    explanation = explain(difference, _where(place, tensors))
    if difference.quantity == "data" and _same_order(fingerprints):
        what = "data differ" if detail.startswith(ONE_CHANGED) else "data order differs"
        fact = f"{what} from step {difference.step} although dataset and seed are equal"
        explanation = Explanation(fact, explanation.guess)
    message = f"{explanation.fact}: {detail}" if detail else str(explanation)
    if fingerprints.equal is False and not detail:
        message = explanation.fact
    healed = (
        f"; equal again from step {equal_again} on: the difference did not last"
        if equal_again is not None
        else ""
    )
    return f"{message}{healed}; {cause(fingerprints)}"


def _where(place: ModelPart | None, tensors: DifferingTensors) -> str:
    """A module, and what else differs; or a tensor, and which of its elements."""
    if place is None:
        return ""
    if len(tensors.changes) == 1 and len(tensors.names) == 1:
        return f"{place.module} {said_of_element(tensors.changes[0])}"
    if not place.others:
        return place.module
    return f"{place.module} (and in {place.others} parameters before it, which its backward pass reaches)"


def said_of_element(change: ElementChange) -> str:
    """`[3, 5] alone, by 1 ulp`."""
    size = abs(change.ulps)
    message = "1 ulp" if size == 1 else f"{size:,} ulps"
    bit = f" (bit {size.bit_length() - 1})" if size & (size - 1) == 0 and size > 1 else ""
    return f"[{', '.join(map(str, change.index))}] alone, by {message}{bit}"


def _same_order(fingerprints: Fingerprints) -> bool:
    """Whether nothing that decides the samples of a step differs, as far as it is known."""
    if fingerprints.equal is None or "data" in fingerprints.parts:
        return False
    known = fingerprints.equal or fingerprints.changes or "config" not in fingerprints.parts
    return bool(known) and not any(
        change.part == "config" and change.key.startswith(_ORDER_FIELDS) for change in fingerprints.changes
    )


def diagnose_state(difference: StateDifference, fingerprints: Fingerprints) -> str:
    """The first difference of two checkpoints whose ledgers do not differ up to there."""
    counts = ", ".join(
        f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} of {quantity}"
        for quantity, names in difference.tensors.items()
    )
    return f"the states saved at step {difference.step} differ in {counts}; {cause(fingerprints)}"


def cause(fingerprints: Fingerprints) -> str:
    """What the fingerprints say about a difference."""
    if fingerprints.equal is None:
        return "the fingerprints are not known"
    if fingerprints.equal:
        return "the fingerprints are equal, so config, data, code and environment are not the cause"
    parts = " and ".join(fingerprints.parts) or "the steps they apply to"
    shown = [str(change) for change in fingerprints.changes[:_CHANGES_MAX]]
    more = len(fingerprints.changes) - len(shown)
    if more > 0:
        shown.append(f"{more} more")
    listed = f" ({', '.join(shown)})" if shown else ""
    return f"the fingerprints differ in {parts}{listed}"
