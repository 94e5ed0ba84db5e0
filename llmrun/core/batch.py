"""The batch algebra: GB_tok = D · A · μ_tok, in V lanes.  Pure functions of integers (no torch)."""

from dataclasses import dataclass

LARGEST_DEFAULT_V = 8


def exact_div(a: int, b: int) -> int:
    """A / b, which must be whole."""
    quotient, rest = divmod(a, b)
    assert rest == 0, f"{a} is not a multiple of {b}"
    return quotient


def divisors(n: int, most: int) -> list[int]:
    """The divisors of n up to `most`, ascending; n may be as large as 2^63, `most` is small."""
    return [d for d in range(1, min(n, most) + 1) if n % d == 0]


def default_V(M: int) -> int:
    """The largest power of two up to 8 that divides M: independent of D and of the machine."""
    return next(V for V in (LARGEST_DEFAULT_V, 4, 2, 1) if M % V == 0)


def default_D(M: int, V: int, gpus: int) -> int:
    """The largest divisor of M up to min(GPUs of this machine, V), else 1."""
    return max(divisors(M, min(gpus, V)), default=1)


def show_quotient(a: int, b: int) -> str:
    """A / b for people, never rounded to a whole number: `5.33`, `5 + 1/98304`."""
    whole, rest = divmod(a, b)
    hundredths = round(100 * rest / b)
    if rest == 0:
        return f"{whole:,}"
    return f"{whole:,}.{hundredths:02d}" if 0 < hundredths < 100 else f"{whole:,} + {rest}/{b}"


@dataclass(frozen=True)
class Batch:
    """The global batch of a run and the number of its steps.  All counts are integers.

    gb_tok = M · mu_tok; M micro-batches in V lanes of M/V; D ranks share the lanes.
    """

    gb_tok: int
    mu_tok: int
    L_ctx: int
    V: int
    D: int
    T_tokens: int
    warmup_tokens: int

    @property
    def M(self) -> int:
        """Micro-batches per step."""
        return exact_div(self.gb_tok, self.mu_tok)

    @property
    def A(self) -> int | None:
        """Accumulation steps of every rank; None if D does not divide M (an uneven D)."""
        return self.M // self.D if self.M % self.D == 0 else None

    @property
    def micro_batches_per_lane(self) -> int:
        """M / V."""
        return exact_div(self.M, self.V)

    @property
    def sequences(self) -> int:
        """Sequences of L_ctx tokens in one micro-batch."""
        return exact_div(self.mu_tok, self.L_ctx)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run: floor(T_tokens / GB_tok)."""
        return self.T_tokens // self.gb_tok

    @property
    def tokens_seen(self) -> int:
        """Tokens of all steps: T_tokens rounded down to whole steps."""
        return self.steps * self.gb_tok

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up, rounded up."""
        return -(-self.warmup_tokens // self.gb_tok)

    def with_D(self, D: int) -> "Batch":
        """The same batch shared among another number of ranks."""
        return Batch(self.gb_tok, self.mu_tok, self.L_ctx, self.V, D, self.T_tokens, self.warmup_tokens)
