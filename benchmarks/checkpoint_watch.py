"""Following a save in the background with the flags of training steps, for benchmarks/checkpoint.py."""

from typing import Protocol

from checkpoint_ours import Ours
from checkpoint_peers import DcpAsyncSave

from llmrun.runtime.async_writer import COMMITTED
from llmrun.storage.checkpoint.layout import steps_in


class Watch(Protocol):
    """A save and how it stands."""

    def begin(self) -> None:
        """Begin a save; returns when the loop may go on."""

    def flags(self) -> list[int]:
        """What this rank tells the others with a step."""

    def phase_after(self, rows: list[list[int]]) -> str:
        """`writing`, `verifying` or `over`, from the flags of all ranks."""

    def clear(self) -> None:
        """Remove what was saved."""


class WatchOurs:
    """llmrun's save: the verdict as the loop hears of it, then the new one is verified and the old one deleted."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._committed = True

    def begin(self) -> None:
        """See `Watch`."""
        self._ours.begin()
        self._committed = False

    def flags(self) -> list[int]:
        """[the clock's, the verdict, whether rank 0 still holds an older checkpoint]."""
        is_first = self._ours.state.rank == 0
        older = is_first and len(steps_in(self._ours.run.checkpoints)) > 1
        return [*self._ours.checkpoints.flags(), int(older)]

    def phase_after(self, rows: list[list[int]]) -> str:
        """See `Watch`."""
        self._ours.take_flags([row[:2] for row in rows])
        self._committed = self._committed or rows[0][1] == COMMITTED
        if not self._committed:
            return "writing"
        return "verifying" if rows[0][2] else "over"

    def clear(self) -> None:
        """Nothing: retention keeps the newest, which the next one replaces."""


class WatchDcp:
    """`async_save`: over when its future is."""

    def __init__(self, side: DcpAsyncSave) -> None:
        self._side = side

    def begin(self) -> None:
        """See `Watch`."""
        self._side.begin()

    def flags(self) -> list[int]:
        """[whether it still writes]."""
        return [int(self._side.future is not None and not self._side.future.done())]

    def phase_after(self, rows: list[list[int]]) -> str:
        """See `Watch`."""
        return "writing" if any(row[0] for row in rows) else "over"

    def clear(self) -> None:
        """See `Watch`."""
        self._side.finish()
        self._side.clear()
