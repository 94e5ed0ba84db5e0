"""The texts of a plan's notes: reasons, prices, warnings and hints."""

from llmrun.plan.note import Note, NoteKind
from llmrun.plan.plan import Plan
from llmrun.plan.render.language import Translate, english
from llmrun.plan.warnings import plan_warnings
from llmrun.text import format_bytes

TEMPLATES: dict[NoteKind, str] = {
    "not_set": "{key} is not set",
    "unknown_FLOPs": "the FLOPs of a model of your own are unknown; `llmrun plan --calibrate` times it",
    "no_peak": "the hardware table has no {precision} peak of {name}",
    "no_TDP": "the hardware table has no TDP of {name}",
    "recomputation": "{share:.0%} more FLOPs: every block forward twice",
    "gathered_weights": "each rank receives {bytes} of weights per micro-batch",
    "smaller_micro_batches": (
        "micro-batches of {smaller:,} tokens instead of {now:,}: other bits, smaller products"
    ),
    "fewer_lanes": "other bits, and D is limited to {D:,} in this run",
    "more_devices": "{times:.3g} times as many devices",
    "uneven": (
        "D = {D} does not divide V = {V}: ranks compute {smallest} to {largest} micro-batches a step "
        "and wait {share:.0%} of the time"
    ),
    "even_D": "use D = {cheap}, which divides V, or start the run with a V that D = {D} divides (other bits)",
    "epochs": "the training split has {train:,} tokens and the run reads {seen:,}: {epochs:.2f} epochs",
    "one_epoch": "`--set T_tokens={whole}` is at most one epoch",
    "more_data": "prepare more data",
    "device_memory": "a rank needs {needed_bytes}, {name} has {device_bytes}",
    "remedy_same_bits": (
        "`--set {settings}` needs {bytes} (same bits); `llmrun plan --explain` lists all remedies"
    ),
    "remedy_other_bits": (
        "`--set {settings}` needs {bytes} (other bits); `llmrun plan --explain` lists all remedies"
    ),
    "too_many_layers": "does not fit with any setting: at most {most:,} layers of this width do",
    "machine_memory": "the run needs {needed_bytes} on this machine, which has {machine_bytes} for it",
    "smaller_run": "reduce batch.D, or batch.μ_tok (other bits)",
    "cpu_limit": "the run has {threads:,} threads, but its control group allows {cpus:g} processors",
    "fewer_threads": "reduce batch.D, or raise the limit",
}


def warning_texts(plan: Plan, translate: Translate = english) -> list[tuple[str, str]]:
    """(warning, hint) for everything worth knowing before the run starts."""
    return [
        (note_text(each.problem, translate), note_text(each.hint, translate)) for each in plan_warnings(plan)
    ]


def note_text(note: Note, translate: Translate = english) -> str:
    """A note in words, lower-case start, no final period."""
    fields = {name: _shown(name, value) for name, value in note.fields.items()}
    return translate(TEMPLATES[note.kind], **fields)


def _shown(name: str, value: object) -> object:
    """A field as its template expects it: bytes and settings as text, others as they are."""
    if isinstance(value, int) and name.endswith("bytes"):
        return format_bytes(value)
    return " --set ".join(value) if isinstance(value, tuple) else value
