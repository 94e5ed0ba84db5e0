"""Whether what a user stated about the batch holds together, and the sentences for where it does not.

The faults, each of which hides the ones that need its result:

sequences   L_ctx divides μ_tok
whole       μ_tok divides GB_tok, so that M is whole
ranks       D divides M, so that A is whole, unless batch.uneven allows another D
agreement   a stated A is M/D
lanes       V divides M
room        D is at most V
steps       T_tokens is at least one step
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmrun.config.schema import Config
from llmrun.core.batch import default_V, show_quotient

Fault = Literal["sequences", "whole", "ranks", "agreement", "lanes", "room", "steps"]


@dataclass(frozen=True)
class Stated:
    """What a config says about the batch; None where it says nothing."""

    gb_tok: int
    mu_tok: int
    L_ctx: int
    T_tokens: int
    V: int | None
    D: int | None
    A: int | None
    allows_uneven: bool = False

    @property
    def M(self) -> int | None:
        """Micro-batches per step, None where GB_tok does not divide."""
        return self.gb_tok // self.mu_tok if self.gb_tok % self.mu_tok == 0 else None

    @property
    def lanes(self) -> int | None:
        """V as stated, else its default."""
        return self.V if self.V is not None else default_V(self.M) if self.M else None


def stated(config: Config) -> Stated:
    """What a config says about the batch."""
    b = config.batch
    return Stated(b.gb_tok, b.mu_tok, b.L_ctx, config.T_tokens, b.V, b.D, b.A, b.uneven == "allow")


def faults(s: Stated) -> frozenset[Fault]:
    """Everything about the batch that does not hold."""
    found: set[Fault] = set()
    if s.mu_tok % s.L_ctx:
        found.add("sequences")
    if s.T_tokens < s.gb_tok:
        found.add("steps")
    M = s.M
    if M is None:
        return frozenset({*found, "whole"})
    if s.D is not None and M % s.D and not (s.allows_uneven and s.A is None):
        found.add("ranks")
    elif s.A is not None and (s.A * s.D != M if s.D is not None else M % s.A):
        found.add("agreement")
    if s.V is not None and M % s.V:
        found.add("lanes")
    if s.D is not None and "ranks" not in found and (s.lanes or 1) < s.D:
        found.add("room")
    return frozenset(found)


def say_sequences(s: Stated) -> str:
    """L_ctx does not divide μ_tok."""
    would_be = show_quotient(s.mu_tok, s.L_ctx)
    return f"μ_tok = {s.mu_tok:,} is no whole number of sequences of L_ctx = {s.L_ctx:,} tokens (it would be {would_be})"


def say_identity(s: Stated) -> str:
    """GB_tok = D·A·μ_tok has no whole solution."""
    if s.D is None:
        would_be = show_quotient(s.gb_tok, s.mu_tok)
        return f"GB_tok = D·A·μ_tok has no whole D·A: {s.gb_tok:,} ≠ D·A × {s.mu_tok:,} (D·A would be {would_be})"
    would_be = show_quotient(s.gb_tok, s.D * s.mu_tok)
    return f"GB_tok = D·A·μ_tok has no whole A: {s.gb_tok:,} ≠ {s.D:,} × A × {s.mu_tok:,} (A would be {would_be})"


def say_agreement(s: Stated) -> str:
    """The stated A does not solve the identity."""
    assert s.A is not None
    assert s.M is not None
    if s.D is None:
        return f"A = {s.A:,} does not agree with GB_tok = D·A·μ_tok: it does not divide D·A = {s.M:,}"
    product = s.D * s.A * s.mu_tok
    return (
        f"A = {s.A:,} does not agree with GB_tok = D·A·μ_tok: "
        f"{s.D:,} × {s.A:,} × {s.mu_tok:,} is {product:,}, not {s.gb_tok:,}"
    )


def say_lanes(s: Stated) -> str:
    """V does not divide M."""
    assert s.M is not None
    assert s.V is not None
    would_be = show_quotient(s.M, s.V)
    return (
        f"M = GB_tok/μ_tok = {s.M:,} micro-batches do not fill V = {s.V:,} lanes (each would have {would_be})"
    )


def say_room(s: Stated) -> str:
    """More ranks than lanes."""
    origin = "" if s.V is not None else f", the default for M = {s.M:,}"
    return f"D = {s.D:,} ranks cannot share V = {s.lanes:,} lanes{origin}: D is at most V"


def say_steps(s: Stated) -> str:
    """Not one whole step."""
    return f"T_tokens = {s.T_tokens:,} is less than GB_tok = {s.gb_tok:,}: the run would have no step"


SAYS: dict[Fault, Callable[[Stated], str]] = {
    "sequences": say_sequences,
    "whole": say_identity,
    "ranks": say_identity,
    "agreement": say_agreement,
    "lanes": say_lanes,
    "room": say_room,
    "steps": say_steps,
}
