"""The patch of uncommitted changes, streamed to disk up to a limit and hashed on the way."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llmrun.provenance.git_command import OutputLimitError

PATCH_BYTES_MAX = 64 * 1024 * 1024
"""Each segment of a run keeps its patch."""

BLOCK_BYTES = 1024 * 1024


class Patch:
    """Bytes in an unnamed file of `directory` (None: the system's temporary directory), which goes with this object."""

    def __init__(self, directory: Path | None = None, bytes_max: int = PATCH_BYTES_MAX) -> None:
        self.bytes = 0
        self.complete = True
        self._directory = directory
        self._bytes_max = bytes_max
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def write(self, block: bytes) -> None:
        """Append a block.  Raises OutputLimitError above the limit, OSError if the disk is full."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        kept = memoryview(block)[: self._bytes_max - self.bytes]
        written = 0
        while written < len(kept):
            written += self._file.write(kept[written:])
        self._digest.update(kept)
        self.bytes += len(kept)
        if len(kept) < len(block):
            raise OutputLimitError(f"it is larger than {self._bytes_max:,} bytes")

    @property
    def sha256(self) -> str | None:
        """The sha256 in hex; None if the patch is not complete."""
        return self._digest.hexdigest() if self.complete else None

    def blocks(self) -> Iterator[bytes]:
        """What is there, block by block."""
        for start in range(0, self.bytes, BLOCK_BYTES):
            assert self._file is not None
            yield os.pread(self._file.fileno(), min(BLOCK_BYTES, self.bytes - start), start)
