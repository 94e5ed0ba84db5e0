"""What `llmrun replay` and `llmrun bisect` execute steps with: torchrun, a scratch directory, progress on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.cli import console

if TYPE_CHECKING:
    from llmrun.storage.metrics.jsonl import Row
    from llmrun.verify.replay.execute import Executor

INTERVAL_S = 0.2
PLAIN_INTERVAL_S = 10.0


@contextmanager
def replay_executor(D: int | None = None, data: Path | None = None) -> "Iterator[Executor]":
    """Workers under torchrun and a scratch directory, which is kept only if an error names a log in it."""
    import tempfile

    from llmrun.errors import LlmrunError
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.storage.durable import DISK
    from llmrun.verify.replay.execute import Executor

    scratch = Path(tempfile.mkdtemp(prefix="llmrun-replay-"))
    view = StepView(live=console.colours(sys.stderr))
    keep = False
    try:
        yield Executor(TorchrunBackend(), view, scratch, D, data)
    except LlmrunError as error:
        keep = str(scratch) in (error.where or "")
        raise
    finally:
        view.close()
        if not keep:
            DISK.remove_tree(scratch)


class StepView:
    """Shows the last executed step on stderr: in place on a terminal, every 10 s elsewhere."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._shown_at_s = time.monotonic()

    def rows(self, rows: "Sequence[Row]") -> None:
        """New steps."""
        now_s = time.monotonic()
        if now_s - self._shown_at_s < (INTERVAL_S if self._live else PLAIN_INTERVAL_S):
            return
        self._shown_at_s = now_s
        line = f"executed step {rows[-1]['step']:,}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            console.note(line)

    def checkpoint(self, step: int) -> None:
        """Not shown."""

    def warn(self, message: str) -> None:
        """Not shown: the verdict covers it."""

    def stopping(self, message: str) -> None:
        """Not shown."""

    def close(self) -> None:
        """Clear the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
