"""What an attempt is: a run and a variant of it, and the endings that keep the promise."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from falsify.ground import Finished, Place


class Ending(StrEnum):
    """How an attempt can end."""

    EQUAL = "equal"
    """Same fingerprint; every ledger record and every tensor of the last checkpoint have the same bits."""
    OTHER = "other fingerprint"
    REFUSED = "refused"
    """Exit code 2 or 3 and an error without a traceback."""
    STOPPED = "stopped"
    """Exit code 4 and an error without a traceback: the workers found it after they had started."""
    DISCLOSED = "disclosed"
    """Same fingerprint, other bits, and the closing screen states what was not checked."""
    NOT_TRIED = "not tried"
    """Something is missing on this machine."""
    VIOLATION = "SAME FINGERPRINT, OTHER BITS"
    CRASH = "CRASH"
    HANG = "HANG"
    CONTRADICTION = "VERIFY AND THE FILES DISAGREE"


@dataclass(frozen=True)
class Pair:
    """Two runs to compare.

    reference: the directory of a finished run.
    variant:   the last command of the other one.
    disclosure: words of the variant's closing screen that state what was not checked; "" if there are none.
    """

    reference: Path
    variant: Finished
    disclosure: str = ""


@dataclass(frozen=True)
class Attempt:
    """One way to get other bits under the same fingerprint.

    name:    for `ONLY=`; unique.
    what:    what the variant does.
    allowed: acceptable endings, decided beforehand.
    because: why these.
    play:    runs reference and variant.  Raises NotHereError if this machine lacks something.
    """

    name: str
    what: str
    allowed: tuple[Ending, ...]
    because: str
    play: Callable[[Place], Pair]


EQUAL = (Ending.EQUAL,)
OTHER = (Ending.OTHER,)
HONEST = (Ending.EQUAL, Ending.OTHER, Ending.REFUSED)
"""For what may be ignored, recorded or refused, but not overlooked."""
HARMLESS = (Ending.EQUAL, Ending.OTHER)
"""For what changes no bit today, but belongs to a family of variables that is recorded as a whole."""
NOTICED = (Ending.EQUAL, Ending.OTHER, Ending.REFUSED, Ending.STOPPED)
"""For changes made while workers run: also found late."""


def variant(config: str = "bf16", **how: object) -> Callable[[Place], Pair]:
    """An attempt that trains `config` in another way (`Place.train`) and compares it with the shared reference."""

    def play(place: Place) -> Pair:
        return Pair(place.ground.reference(config), place.train(config, **how))  # type: ignore[arg-type]

    return play
