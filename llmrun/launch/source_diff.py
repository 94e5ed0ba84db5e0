"""What changed in the sources of a user's own model since a segment, as the lines of a diff."""

import difflib
from collections.abc import Mapping
from contextlib import suppress

from llmrun.provenance.snapshot import SOURCES
from llmrun.run.directory import RunDirectory
from llmrun.run.record import Segment
from llmrun.text import cut, printable

LINES_SHOWN = 24
CONTEXT_LINES = 1


def source_diff(run: RunDirectory, reference: Segment | None, now: Mapping[str, bytes]) -> list[str]:
    """The unified diff of each source that the segment has recorded and that is another one now.

    reference: None: the run as it was made.  now: sources by import path.
    At most `LINES_SHOWN` lines.
    """
    directory = run.segment_provenance(1 if reference is None else reference.segment) / SOURCES
    lines: list[str] = []
    for name, content in now.items():
        with suppress(OSError):
            before = (directory / name).read_bytes()
            if before != content:
                lines += _diff(name, before, content)
    return cut(lines, LINES_SHOWN, "more lines")


def _diff(name: str, before: bytes, after: bytes) -> list[str]:
    old, new = (content.decode("utf-8", "replace").splitlines() for content in (before, after))
    found = difflib.unified_diff(
        old, new, f"{name} (recorded)", f"{name} (now)", n=CONTEXT_LINES, lineterm=""
    )
    return [printable(line) for line in found]
