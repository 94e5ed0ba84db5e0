"""What `llmrun replay` and `llmrun bisect` execute steps with: torchrun, a scratch directory, progress on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrun.verify.replay.execute import Executor

INTERVAL_S = 0.2
PLAIN_INTERVAL_S = 10.0


@contextmanager
def replay_executor(D: int | None = None, data: Path | None = None) -> "Iterator[Executor]":
    """Workers under torchrun and a scratch directory, which is kept only if an error names a log in it."""
    import tempfile

    from llmrun.cli.progress import ReplayProgress
    from llmrun.errors import LlmrunError
    from llmrun.launch.torchrun import TorchrunBackend
    from llmrun.storage.durable import DISK
    from llmrun.verify.replay.execute import Executor

    scratch = Path(tempfile.mkdtemp(prefix="llmrun-replay-"))
    view = ReplayProgress()
    keep = False
    try:
        yield Executor(TorchrunBackend(), view, scratch, D, data)
    except LlmrunError as error:
        keep = str(scratch) in str(error.where or "")
        raise
    finally:
        view.close()
        if not keep:
            DISK.remove_tree(scratch)
