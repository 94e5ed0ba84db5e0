"""trainer.json as llmrun's own trainer writes it: what a resume reads of it is checked when it is opened."""

from collections.abc import Mapping
from typing import Any

from llmrun.checkpoint.strict_json import WrongValue, count_at, object_at, shown

TRAINER_FORMAT = "llmrun-trainer/1"

_PERPLEXITIES = ("val_ppl", "best_val_ppl")
_STEPS = ("best_step", "best_saved_step")
_AVERAGE = ("decay", "total", "weight")


def check_trainer(document: Mapping[str, Any], step: int) -> None:
    """Raise WrongValue if a document of this format does not hold what the trainer reads back.

    step: that of the checkpoint, which the document states again: a wrong optimizer step would change the bias
    correction of every later update.  The optimizer of a migrated state has a count of its own.
    Documents of other formats belong to other trainers.
    """
    if document.get("format") != TRAINER_FORMAT:
        return
    missing = [key for key in (*_PERPLEXITIES, "best_step", "optimizer", "metrics") if key not in document]
    if missing:
        raise WrongValue(f"lacks {missing[0]!r}")
    for key in _PERPLEXITIES:
        if document[key] is not None:
            _number_at(document[key], key)
    for key in _STEPS:
        if document.get(key) is not None:
            count_at(document[key], key)
    updates = count_at(object_at(document["optimizer"], "optimizer").get("step"), "optimizer step")
    if document.get("step", step) != step:
        raise WrongValue(f"is of step {shown(document['step'])}, the checkpoint of step {step}")
    if updates != step and "migration" not in document:
        raise WrongValue(f"states {updates} updates of the optimizer, the checkpoint is of step {step}")
    average = object_at(object_at(document["metrics"], "metrics").get("loss_smooth"), "loss_smooth", _AVERAGE)
    for key in _AVERAGE:
        _number_at(average[key], f"loss_smooth {key}")


def _number_at(value: object, where: str) -> None:
    """A finite number; the JSON was read without others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValue(f"{where} is {shown(value)}, not a number")
