"""The options of `train` and `resume`, and what every preparation of a segment works with."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from llmrun.errors import InputError
from llmrun.launch.torchrun import ProcessBackend
from llmrun.provenance.fingerprint import PARTS
from llmrun.run.signals import LauncherStopRequest
from llmrun.storage.checkpoint.verification import Progress
from llmrun.text import command

Notify = Callable[[str], None]
"""Shows the user one line while a segment is prepared."""


@dataclass(frozen=True)
class LaunchContext:
    """What the preparation of a segment works with.

    stop:     checked while something is waited for.
    progress: receives the bytes of checkpoints verified so far.
    """

    backend: ProcessBackend
    stop: LauncherStopRequest
    notify: Notify
    progress: Progress | None = None


@dataclass(frozen=True)
class LaunchOptions:
    """The options of one command line.

    overrides: `--set` values, `a.b=c`.
    allow:     kinds of change to accept.
    until:     last step of this segment; None: the run's last step.
    D:         ranks; None: as the last segment had.
    start:     the checkpoint to start from: a step, "best", or "newest".
    """

    overrides: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    until: int | None = None
    D: int | None = None
    start: int | Literal["newest", "best"] = "newest"

    def as_typed(self) -> str:
        """These options as on a command line, without `--allow`."""
        options = [("--set", override) for override in self.overrides]
        options += [("--D", str(self.D))] if self.D is not None else []
        options += [("--from", str(self.start))] if self.start != "newest" else []
        options += [("--until", str(self.until))] if self.until is not None else []
        return "".join(f" {command(name, value)}" for name, value in options)

    def with_D_of_overrides(self) -> Self:
        """`--set batch.D=n` as `--D n`, so that any n from 1 to V is possible."""
        rest = []
        D = self.D
        for override in self.overrides:
            key, _, value = override.partition("=")
            if key.strip() == "batch.D" and value.strip().isdigit():
                D = int(value)
            else:
                rest.append(override)
        return replace(self, overrides=tuple(rest), D=D)

    def last_step(self, steps: int) -> int:
        """The step after which the segment of a run of `steps` steps ends.  Raises InputError."""
        if self.until is not None and self.until > steps:
            raise InputError(
                f"--until must be at most the run's last step {steps:,}, got {self.until}",
                hints=["leave `--until` out to run to the end"],
            )
        return self.until or steps


def launch_options(
    overrides: Sequence[str],
    allow: Iterable[str],
    until: int | None,
    D: int | None = None,
    start: str | None = None,
) -> LaunchOptions:
    """The options as typed, checked.  Raises InputError for an unknown word or a number out of range."""
    kinds = frozenset(allow)
    unknown = sorted(kinds - set(PARTS))
    if unknown:
        raise InputError(f"--allow must be one of {', '.join(PARTS)}, got {unknown[0]}")
    if until is not None and until < 1:
        raise InputError(f"--until must be at least 1, got {until}", hints=["steps count from 1"])
    if D is not None and D < 1:
        raise InputError(f"--D must be at least 1, got {D}", hints=["any D from 1 to V gives the same bits"])
    return LaunchOptions(tuple(overrides), kinds, until, D, _start(start))


def _start(text: str | None) -> int | Literal["newest", "best"]:
    """The value of `--from`."""
    if text is None:
        return "newest"
    if text == "best":
        return "best"
    if not text.isdigit():
        raise InputError(
            f"--from must be a step or `best`, got {text}",
            hints=["`--from 40`, or `--from best` (by val_ppl)"],
        )
    return int(text)
