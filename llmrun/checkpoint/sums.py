"""SHA256SUMS: the root of verification, in the form that `sha256sum -c` reads."""

import re
from collections.abc import Mapping

from llmrun.checkpoint.strict_json import WrongValue

_LINE_PATTERN = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+)")


def render_sums(sums: Mapping[str, str]) -> bytes:
    """Lower-case hex, two spaces, the name; sorted by name, one newline after each."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode("ascii")


def parse_sums(content: bytes) -> dict[str, str]:
    """The sha256 of each file, by name.  Raises WrongValue for any other byte than `render_sums` writes."""
    lines = content.decode("ascii", errors="replace").split("\n")
    sums: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], start=1):
        match = _LINE_PATTERN.fullmatch(line)
        if match is None:
            raise WrongValue(f"is damaged in line {number}")
        if match[2] in sums:
            raise WrongValue(f"names {match[2]} twice")
        sums[match[2]] = match[1]
    if render_sums(sums) != content:
        raise WrongValue("is damaged: not the sorted lines that were written")
    return sums
