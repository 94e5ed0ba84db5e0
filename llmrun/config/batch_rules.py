"""Consistency of the batch that a user stated: the faults and their messages.

The faults, each of which hides those that need its result:

sequences   L_ctx divides μ_tok
whole       μ_tok divides GB_tok, so that M is whole
ranks       D divides M, so that A is whole, unless batch.uneven allows another D
agreement   a stated A is M/D
lanes       V divides M
room        D is at most V
steps       T_tokens is at least one step
"""

from dataclasses import dataclass
from typing import Literal

from llmrun.config.schema import Config
from llmrun.core.batch import default_V, show_quotient

Fault = Literal["sequences", "whole", "ranks", "agreement", "lanes", "room", "steps"]


@dataclass(frozen=True)
class Stated:
    """What a config states about the batch; None for what it leaves to defaults."""

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
        """Micro-batches per step, or None if μ_tok does not divide GB_tok."""
        return self.gb_tok // self.mu_tok if self.gb_tok % self.mu_tok == 0 else None

    @property
    def lanes(self) -> int | None:
        """V as stated, else its default; None if M is not whole."""
        return self.V if self.V is not None else default_V(self.M) if self.M else None


def stated(config: Config) -> Stated:
    """What a config states about the batch."""
    b = config.batch
    return Stated(b.gb_tok, b.mu_tok, b.L_ctx, config.T_tokens, b.V, b.D, b.A, b.uneven == "allow")


def faults(s: Stated) -> frozenset[Fault]:
    """All faults of a stated batch."""
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


def describe(s: Stated, fault: Fault) -> str:
    """The message for a fault that `s` has, with the user's numbers."""
    match fault:
        case "sequences":
            quotient = show_quotient(s.mu_tok, s.L_ctx)
            return f"μ_tok must be a multiple of L_ctx = {s.L_ctx:,}, got {s.mu_tok:,} ({quotient} sequences)"
        case "whole" | "ranks":
            return _describe_identity(s)
        case "agreement":
            return _describe_agreement(s)
        case "lanes":
            assert s.M is not None
            assert s.V is not None
            quotient = show_quotient(s.M, s.V)
            return (
                f"V must divide M = GB_tok/μ_tok = {s.M:,} micro-batches, got {s.V:,} ({quotient} per lane)"
            )
        case "room":
            origin = "" if s.V is not None else f", the default for M = {s.M:,}"
            return f"D must be at most V = {s.lanes:,}{origin}, got {s.D:,}"
        case "steps":
            return f"T_tokens must be at least GB_tok = {s.gb_tok:,}, one step, got {s.T_tokens:,}"


def _describe_identity(s: Stated) -> str:
    """GB_tok = D·A·μ_tok has no solution in integers."""
    if s.D is None:
        quotient = show_quotient(s.gb_tok, s.mu_tok)
        return f"GB_tok = D·A·μ_tok has no whole D·A: {s.gb_tok:,} ≠ D·A × {s.mu_tok:,} (D·A would be {quotient})"
    quotient = show_quotient(s.gb_tok, s.D * s.mu_tok)
    return f"GB_tok = D·A·μ_tok has no whole A: {s.gb_tok:,} ≠ {s.D:,} × A × {s.mu_tok:,} (A would be {quotient})"


def _describe_agreement(s: Stated) -> str:
    """The stated A does not solve GB_tok = D·A·μ_tok."""
    assert s.A is not None
    assert s.M is not None
    if s.D is None:
        return f"A = {s.A:,} does not agree with GB_tok = D·A·μ_tok: it does not divide D·A = {s.M:,}"
    product = s.D * s.A * s.mu_tok
    return (
        f"A = {s.A:,} does not agree with GB_tok = D·A·μ_tok: "
        f"{s.D:,} × {s.A:,} × {s.mu_tok:,} is {product:,}, not {s.gb_tok:,}"
    )
