"""What the user asks of a start or a resume, beside the config."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from llmrun.errors import InputError
from llmrun.provenance.fingerprint import PARTS
from llmrun.text import command


@dataclass(frozen=True)
class LaunchOptions:
    """One command line.

    overrides: `--set` values, `a.b=c`.
    allow:     kinds of change to go on with.
    until:     last step of this segment; None runs to the end.
    D:         ranks; None keeps the last segment's.
    start:     a step, "best", or "newest".
    """

    overrides: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    until: int | None = None
    D: int | None = None
    start: int | Literal["newest", "best"] = "newest"

    def as_typed(self) -> str:
        """These wishes as options of a command line, without `--allow`."""
        options = [("--set", override) for override in self.overrides]
        options += [("--D", str(self.D))] if self.D is not None else []
        options += [("--from", str(self.start))] if self.start != "newest" else []
        options += [("--until", str(self.until))] if self.until is not None else []
        return "".join(f" {command(name, value)}" for name, value in options)

    def with_D_of_overrides(self) -> Self:
        """`--set batch.D=n` as the wish `--D n`, so that any n from 1 to V will do."""
        rest = []
        D = self.D
        for override in self.overrides:
            key, _, value = override.partition("=")
            if key.strip() == "batch.D" and value.strip().isdigit():
                D = int(value)
            else:
                rest.append(override)
        return replace(self, overrides=tuple(rest), D=D)


def launch_options(
    overrides: Sequence[str],
    allow: Iterable[str],
    until: int | None,
    D: int | None = None,
    start: str | None = None,
) -> LaunchOptions:
    """The wishes of a command line.  Raises InputError where a word is not known or a number out of range."""
    kinds = frozenset(allow)
    unknown = sorted(kinds - set(PARTS))
    if unknown:
        raise InputError(
            f"--allow {unknown[0]} is not a kind of change", hints=[f"kinds are {', '.join(PARTS)}"]
        )
    if until is not None and until < 1:
        raise InputError(f"--until {until} is before the first step", hints=["steps count from 1"])
    if D is not None and D < 1:
        raise InputError(f"--D {D} is no number of ranks", hints=["any D from 1 to V will do"])
    return LaunchOptions(tuple(overrides), kinds, until, D, _start(start))


def _start(text: str | None) -> int | Literal["newest", "best"]:
    """`--from`: a step or `best`; newest where it is not given."""
    if text is None:
        return "newest"
    if text == "best":
        return "best"
    if not text.isdigit():
        raise InputError(
            f"--from {text} is neither a step nor `best`",
            hints=["`--from 40`, or `--from best` (by val_ppl)"],
        )
    return int(text)
