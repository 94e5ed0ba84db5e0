"""Reads and runs a migration script; its errors are reported with the line of the script.

The script is the user's own program and runs with the user's rights; nothing in a checkpoint is ever executed.
"""

import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from llmrun.errors import InputError, LlmrunError

SCRIPT_BYTES_MAX = 1024 * 1024
FUNCTION = "migrate"
CONTRACT = "def migrate(old, new): return {name: tensor, ...}"


@dataclass(frozen=True)
class Script:
    """A compiled script.

    path: as the user gave it.  content: the bytes that are hashed, run and kept.
    """

    path: Path
    content: bytes
    code: CodeType

    @property
    def sha256(self) -> str:
        """The sha256 of the content, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    def where(self, line: int | None) -> str:
        """The location of a line: `PATH:LINE`."""
        return str(self.path) if line is None else f"{self.path}:{line}"


def read_script(path: Path) -> Script:
    """Read and compile a script.  Raises InputError if it cannot be read or is not Python."""
    try:
        with path.open("rb") as file:
            content = file.read(SCRIPT_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"cannot read the script {path}: {error.strerror}") from error
    if len(content) > SCRIPT_BYTES_MAX:
        raise InputError(f"the script {path} must have at most {SCRIPT_BYTES_MAX:,} bytes, got more")
    try:
        return Script(path, content, compile(content, str(path), "exec", dont_inherit=True))
    except SyntaxError as error:
        place = str(path) if error.lineno is None else f"{path}:{error.lineno}"
        raise InputError(f"cannot compile the script: {error.msg}", where=place) from error
    except ValueError as error:  # null bytes
        raise InputError(f"cannot compile the script: {error}", where=str(path)) from error


@contextmanager
def script_errors(script: Script, doing: str, line: int | None = None) -> Iterator[None]:
    """Turn any exception of the script into an InputError with the line of the script, by default `line`."""
    try:
        yield
    except LlmrunError:
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().splitlines() or ["no message"]
        raise InputError(
            f"the script failed while {doing}: {type(error).__name__}: {text[0]}",
            where=script.where(_line_of(error, script) or line),
        ) from error


def _line_of(error: BaseException, script: Script) -> int | None:
    """The innermost line of the script in the traceback of an error."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(script.path)]
    return lines[-1] if lines else None


def run_script(
    script: Script, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[Any, Any], int]:
    """Run the script.  Returns what its function returns, and the line where the function is defined.

    Raises InputError.
    """
    module = ModuleType("llmrun_migration")
    module.__file__ = str(script.path)
    with script_errors(script, "it was loaded"):
        exec(script.code, module.__dict__)  # noqa: S102  the user's own program, named on the command line
    function: Callable[..., object] | None = getattr(module, FUNCTION, None)
    code = getattr(function, "__code__", None)
    if function is None or not isinstance(code, CodeType):
        raise InputError(
            f"the script must define a function {FUNCTION}",
            where=str(script.path),
            hints=[f"write `{CONTRACT}`"],
        )
    line = code.co_firstlineno
    with script_errors(script, f"{FUNCTION} ran"):
        result = function(old, new)
    if not isinstance(result, Mapping):
        raise InputError(
            f"{FUNCTION} must return a mapping of names to tensors, got {type(result).__name__}",
            where=script.where(line),
            hints=[f"write `{CONTRACT}`"],
        )
    return result, line
