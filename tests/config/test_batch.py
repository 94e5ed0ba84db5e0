"""The batch algebra, its rules and the settings that are proposed where it does not hold."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmrun.config.batch_remedies import hint_for, remedies
from llmrun.config.batch_rules import Stated, describe, faults
from llmrun.core.batch import Batch, default_D, default_V, divisors, exact_div, show_quotient

COUNTS = st.integers(1, 96)
LENGTHS = st.integers(1, 64)


@given(COUNTS, COUNTS, LENGTHS, LENGTHS, COUNTS)
def test_identity_holds_for_any_batch(D: int, A: int, sequences: int, L_ctx: int, steps: int) -> None:
    """GB_tok = D·A·μ_tok, M = A·D and the sequences come out for any D, A, μ_tok and L_ctx."""
    mu_tok = sequences * L_ctx
    gb_tok = D * A * mu_tok
    V = default_V(D * A)
    batch = Batch(gb_tok, mu_tok, L_ctx, V, D, steps * gb_tok + gb_tok - 1, warmup_tokens=gb_tok + 1)

    assert batch.A == A
    assert batch.M == A * D
    assert batch.gb_tok == batch.D * batch.A * batch.mu_tok
    assert batch.sequences == sequences
    assert batch.micro_batches_per_lane * V == batch.M
    assert (batch.steps, batch.tokens_seen, batch.warmup_steps) == (steps, steps * gb_tok, 2)
    assert (batch.M // (D + 1) if batch.M % (D + 1) == 0 else None) == batch.with_D(D + 1).A


@given(st.integers(1, 2**63 - 1))
def test_default_V_is_the_largest_power_of_two_up_to_8(M: int) -> None:
    """V divides M, is a power of two up to 8, and the next one would not do."""
    V = default_V(M)

    assert V in (1, 2, 4, 8)
    assert M % V == 0
    assert V == 8 or M % (2 * V) != 0


@given(st.integers(1, 2**63 - 1), st.integers(0, 72))
def test_default_D_is_the_largest_divisor_that_fits(M: int, gpus: int) -> None:
    """D divides M, is at most min(GPUs, V), or 1; and nothing between does."""
    V = default_V(M)
    D = default_D(M, V, gpus)

    assert M % D == 0
    assert D == 1 or min(gpus, V) >= D
    assert not any(M % larger == 0 for larger in range(D + 1, min(gpus, V) + 1))


@given(st.integers(1, 5000), st.integers(1, 200))
def test_divisors_are_all_there(n: int, most: int) -> None:
    """The divisors up to a limit, in order."""
    assert divisors(n, most) == [d for d in range(1, n + 1) if n % d == 0 and d <= most]


def test_exact_division_insists() -> None:
    """A division that is not whole is a bug of ours."""
    assert exact_div(12, 4) == 3
    with pytest.raises(AssertionError):
        exact_div(12, 5)


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [(32, 6, "5.33"), (12, 4, "3"), (1, 3, "0.33"), (10**9, 7, "142,857,142.86"), (98305, 98304, "1 + 1/98304"), (98303, 98304, "0 + 98303/98304"), (1, 10**6, "0 + 1/1000000")],
)  # fmt: skip
def test_quotient_is_never_shown_as_whole(a: int, b: int, shown: str) -> None:
    """A quotient that rounds to a whole number is written as a fraction."""
    assert show_quotient(a, b) == shown


MAYBE = st.none() | st.integers(1, 40)
STATED = st.builds(
    Stated,
    gb_tok=st.integers(1, 4000),
    mu_tok=st.integers(1, 64),
    L_ctx=st.sampled_from([1, 2, 4, 8]),
    T_tokens=st.integers(1, 20_000),
    V=MAYBE,
    D=MAYBE,
    A=MAYBE,
)


@given(STATED)
def test_sound_batches_are_those_that_the_definition_allows(s: Stated) -> None:
    """No fault is found exactly where some whole A and V satisfy every identity of the definition."""
    M = s.gb_tok / s.mu_tok
    V = s.V or next(v for v in (8, 4, 2, 1) if M % v == 0 or v == 1)
    sound = (
        s.mu_tok % s.L_ctx == 0
        and int(M) == M
        and M % V == 0
        and (s.D is None or (M % s.D == 0 and s.D <= V))
        and (s.A is None or (s.gb_tok == s.D * s.A * s.mu_tok if s.D else M % s.A == 0))
        and s.T_tokens >= s.gb_tok
    )

    assert (not faults(s)) == sound


@given(STATED)
def test_every_proposed_setting_mends(s: Stated) -> None:
    """Each proposal of a hint removes the fault that it is for and brings no other, for any batch."""
    for fault in faults(s):
        assert describe(s, fault)
        for change in remedies(s, fault):
            after = faults(replace(s, **change))
            assert after <= faults(s) - {fault}


@given(STATED)
def test_a_batch_that_does_not_divide_gets_a_proposal(s: Stated) -> None:
    """If the identity alone is wrong and the run is long enough, there is a setting that works."""
    s = replace(s, A=None, T_tokens=10**9)
    assume(faults(s) in ({"whole"}, {"ranks"}, {"lanes"}, {"room"}))
    (fault,) = faults(s)
    assume(not (s.D and s.V and s.D > s.V))

    assert remedies(s, fault)


@pytest.mark.parametrize(
    ("A", "first", "shown"),
    [
        (None, {"allows_uneven": True}, "`--set batch.uneven=allow` (same bits)"),
        (
            5,
            {"allows_uneven": True, "A": None},
            "`--set batch.uneven=allow --set batch.A=null` (same bits)",
        ),
    ],
)
def test_an_uneven_D_may_be_allowed(A: int | None, first: dict[str, object], shown: str) -> None:
    """If D is at most V but does not divide M, the first proposal keeps it, and every bit; a larger D has none."""
    s = Stated(32, 1, 1, 64, V=8, D=6, A=A)

    assert remedies(s, "ranks")[0] == first
    assert shown in (hint_for(s, "ranks") or "")
    assert not any("allows_uneven" in change for change in remedies(replace(s, D=9), "ranks"))


def test_numbers_of_any_size_are_answered_at_once() -> None:
    """The search for settings is bounded where the numbers are not."""
    prime = 2**61 - 1
    s = Stated(2**62, prime, 2**31 - 1, 2**63 - 1, 65_536, 65_521, 7)

    assert all(hint_for(s, fault) is None or describe(s, fault) for fault in faults(s))
