"""The margin: the largest difference that does not matter, stated before anybody looks."""

import math
import re
from dataclasses import dataclass

from llmrun.errors import InputError

DEFAULT = "1%"
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?"
_WRITTEN = re.compile(rf"({_NUMBER})\s*(%|nats?|)")
NATS_MAX = 10.0


@dataclass(frozen=True)
class Margin:
    """As the user wrote it, and in nats.

    One margin serves every measure: a difference of x nats in a mean loss is a factor of exp(x) in perplexity, so
    `1%` asks for perplexities whose ratio lies between 1/1.01 and 1.01.
    """

    text: str
    nats: float

    def show(self) -> str:
        """`±1 % of perplexity (±0.00995 nats)`."""
        return f"±{100 * math.expm1(self.nats):.3g} % of perplexity, ±{self.nats:.3g} nats"


def parse_margin(text: str) -> Margin:
    """`1%` of perplexity, or `0.01` nats (also `0.01 nats`).  Raises InputError."""
    found = _WRITTEN.fullmatch(text.strip())
    number = float(found.group(1)) if found else 0.0
    nats = math.log1p(number / 100.0) if found and found.group(4) == "%" else number
    if not 0.0 < nats <= NATS_MAX:
        raise InputError(
            f"--margin {text} is no margin: it must be above 0, in per cent of perplexity or in nats",
            hints=["`--margin 1%`, or `--margin 0.01` (nats)"],
        )
    return Margin(text.strip(), nats)
