"""Running averages of a segment: tokens per second, MFU, smoothed loss."""

from collections import deque
from dataclasses import dataclass

from llmrun.core.model.flops import utilisation

WINDOW_STEPS = 20


@dataclass(frozen=True)
class Speed:
    """Speed over the last steps.  mfu: 0 … 1, None if the peak is unknown."""

    tokens_per_second_per_gpu: float
    total_tokens_per_second: float
    mfu: float | None


class Throughput:
    """The speed of the last `window_steps` steps.

    D:                  ranks that share a step.
    flops_per_token:    FLOPs of forward and backward per token.
    peak_flops_per_gpu: FLOP/s of one GPU at the run's precision, None if unknown.

    MFU = total tokens/s · FLOPs per token / (D · peak) (PaLM, Chowdhery et al. 2022, appendix B).
    A segment's first step (allocations, compilation) counts only until there is a second.
    Time between steps (evaluation, saving) does not count.
    """

    def __init__(
        self,
        D: int,
        flops_per_token: int,
        peak_flops_per_gpu: float | None,
        window_steps: int = WINDOW_STEPS,
    ) -> None:
        assert D >= 1
        assert window_steps >= 1
        self._D = D
        self._flops_per_token = flops_per_token
        self._peak_flops_per_gpu = peak_flops_per_gpu
        self._steps: deque[tuple[float, int]] = deque(maxlen=window_steps)
        self._count = 0

    def step(self, begun_s: float, ended_s: float, tokens: int) -> Speed:
        """Add one step of `tokens` over all ranks, between two readings of one monotonic clock in seconds."""
        if self._count == 1:
            self._steps.clear()
        self._count += 1
        self._steps.append((ended_s - begun_s, tokens))
        return self._rates()

    def _rates(self) -> Speed:
        # Two readings of a clock may be equal: a nanosecond avoids a division by zero.
        seconds = max(sum(seconds for seconds, _ in self._steps), 1e-9)
        total = sum(tokens for _, tokens in self._steps) / seconds
        peak = self._peak_flops_per_gpu
        mfu = None if peak is None else utilisation(total * self._flops_per_token, self._D, peak)
        return Speed(total / self._D, total, mfu)


DECAY = 0.98
"""Weight kept per step: the average looks back about 1/(1 - DECAY) = 50 steps."""


class MovingAverage:
    """Exponential moving average with the bias correction of Adam (Kingma and Ba 2014, section 3).

    After n values x_1 … x_n it is Σ DECAY^(n-i)·x_i / Σ DECAY^(n-i): the first value counts in full.
    """

    def __init__(self, decay: float = DECAY) -> None:
        assert 0.0 <= decay < 1.0
        self.decay = decay
        self._total = 0.0
        self._weight = 0.0

    def add(self, value: float) -> float:
        """Add one value; returns the average."""
        self._total = self.decay * self._total + value
        self._weight = self.decay * self._weight + 1.0
        return self._total / self._weight

    def state(self) -> dict[str, float]:
        """The state for a checkpoint; JSON keeps every bit of its floats."""
        return {"decay": self.decay, "total": self._total, "weight": self._weight}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from the state in a checkpoint.  Raises KeyError if it is incomplete."""
        self.decay = state["decay"]
        self._total = state["total"]
        self._weight = state["weight"]
