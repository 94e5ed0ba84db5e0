"""The moving average of the loss: the same numbers whether or not the run was interrupted."""

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
        """Take in one value; returns the average."""
        self._total = self.decay * self._total + value
        self._weight = self.decay * self._weight + 1.0
        return self._total / self._weight

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps; JSON's shortest floats bring every bit back."""
        return {"decay": self.decay, "total": self._total, "weight": self._weight}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a checkpoint's state.  Raises KeyError where it is not one."""
        self.decay = state["decay"]
        self._total = state["total"]
        self._weight = state["weight"]
