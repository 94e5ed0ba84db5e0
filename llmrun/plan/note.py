"""Facts about a plan as kinds and fields; `llmrun.plan.render.notes` makes text of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NoteKind = Literal[
    "not_set",
    "unknown_FLOPs",
    "no_peak",
    "no_TDP",
    "recomputation",
    "gathered_weights",
    "smaller_micro_batches",
    "fewer_lanes",
    "more_devices",
    "uneven",
    "even_D",
    "epochs",
    "one_epoch",
    "more_data",
    "device_memory",
    "remedy_same_bits",
    "remedy_other_bits",
    "too_many_layers",
    "machine_memory",
    "smaller_run",
    "cpu_limit",
    "fewer_threads",
]


@dataclass(frozen=True)
class Note:
    """One fact: a reason, a price, a warning or a hint.

    fields: what the text of this kind shows: counts, `…bytes`, shares (0 … 1), names, settings as a tuple.
    """

    kind: NoteKind
    fields: Mapping[str, Any] = field(default_factory=dict)
