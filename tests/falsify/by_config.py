"""Attempts by other spellings of the same config, and by the smallest changes of its numbers."""

import math
from collections.abc import Callable

import yaml

from falsify.attempt import EQUAL, OTHER, Attempt, Ending, Pair
from falsify.ground import CONFIGS, Place

SAME = "a spelling is no number"
NUMERIC = "a numeric field is part of the fingerprint, to its last bit"


def _text(change: Callable[[str], str]) -> Callable[[Place], Pair]:
    """A run of the changed text of the config."""

    def play(place: Place) -> Pair:
        return Pair(place.ground.reference("bf16"), place.train(text=change(CONFIGS["bf16"])))

    return play


def _spelled(text: str) -> str:
    """Quantities and symbols written in other ways."""
    spellings = {
        "T_tokens: 8Ki": "T_tokens: 8_192", "GB_tok: 2Ki": "GB_tok: 2048.0", "μ_tok: 1Ki": "micro_tok: 1_024",
        "lr: 1e-3": "lr: 0.001", "eps: 1e-8": "eps: 0.00000001", "warmup_tokens: 2Ki": "warmup_tokens: 2.048K",
    }  # fmt: skip
    for old, new in spellings.items():
        assert old in text
        text = text.replace(old, new)
    return text


def _reversed(text: str) -> str:
    """All mappings in reverse order, in block style, with a comment, and U+00B5 in μ_tok."""
    document = yaml.safe_load(text.replace("μ_tok", "\u00b5_tok"))
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(document.items())
    }
    return f"# reversed\n---\n{yaml.safe_dump(turned, allow_unicode=True, sort_keys=False)}...\n"


def _anchored(text: str) -> str:
    """Numbers shared by anchors."""
    return (
        text.replace("warmup_tokens: 2Ki", "warmup_tokens: *step")
        .replace("GB_tok: 2Ki", "GB_tok: &step 2Ki")
        .replace("D: 1}", "D: &one 1}")
        .replace("threads_per_rank: 1", "threads_per_rank: *one")
    )


def _resolved(place: Place) -> Pair:
    """The resolved config of the reference run, with every default written out."""
    reference = place.ground.reference("bf16")
    text = (reference / "config.yaml").read_text()
    runs = ["--set", f"runs_dir={place.path / 'runs'}"]
    return Pair(reference, place.train(text=text, options=runs))


def _overridden(place: Place) -> Pair:
    """Numbers that come from the command line."""
    text = (
        CONFIGS["bf16"]
        .replace("seed: 42", "seed: 7")
        .replace("lr: 1e-3", "lr: 0.5")
        .replace("T_tokens: 8Ki\n", "")
    )
    options = ["--set", "seed=42", "--set", "optimizer.lr=1e-3", "--set", "T_tokens=8Ki"]
    return Pair(place.ground.reference("bf16"), place.train(text=text, options=options))


def _number(old: str, new: str) -> Callable[[Place], Pair]:
    """One number of the config is another one."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return _text(change)


ATTEMPTS = (
    Attempt("spellings", "8_192 for 8Ki, micro_tok for μ_tok, 0.001 for 1e-3, …", EQUAL, SAME, _text(_spelled)),
    Attempt("field-order", "fields in reverse order, U+00B5 for U+03BC in μ_tok", EQUAL, SAME, _text(_reversed)),
    Attempt("anchors", "numbers shared by YAML anchors", (Ending.EQUAL, Ending.REFUSED), "a config may refuse anchors", _text(_anchored)),
    Attempt("defaults", "every default written out", EQUAL, SAME, _resolved),
    Attempt("overrides", "numbers from --set", EQUAL, SAME, _overridden),
    Attempt("last-bit", "a learning rate that differs in its last bit", OTHER, NUMERIC, _number("lr: 1e-3", f"lr: {math.nextafter(1e-3, 1)!r}")),
    Attempt("seed", "another seed", OTHER, NUMERIC, _number("seed: 42", "seed: 43")),
    Attempt("two-threads", "threads_per_rank: 2", OTHER, NUMERIC, _number("threads_per_rank: 1", "threads_per_rank: 2")),
    Attempt("lanes", "V: 1 instead of 2", OTHER, NUMERIC, _number("V: 2", "V: 1")),
)  # fmt: skip
