"""A migration script: read once, run, and blamed by its line for whatever it does wrong.

The script is the user's own program and runs as such; nothing of a checkpoint is ever run.
"""

import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from llmrun.errors import InputError, LlmrunError, Place

SCRIPT_BYTES_MAX = 1024 * 1024
FUNCTION = "migrate"
CONTRACT = "def migrate(old, new): return {name: tensor, ...}"


@dataclass(frozen=True)
class Script:
    """A script that compiles.

    path:    as the user gave it.  content: its bytes, which are what is hashed, run and kept.
    """

    path: Path
    content: bytes
    code: CodeType

    @property
    def sha256(self) -> str:
        """Of its bytes, in hex."""
        return hashlib.sha256(self.content).hexdigest()

    def where(self, line: int | None) -> Place:
        """A place in the script."""
        return Place(str(self.path), line)


def read_script(path: Path) -> Script:
    """The script in a file.  Raises InputError where it cannot be read, or is not Python."""
    try:
        with path.open("rb") as file:
            content = file.read(SCRIPT_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"the script {path} cannot be read: {error.strerror}") from error
    if len(content) > SCRIPT_BYTES_MAX:
        raise InputError(f"the script {path} has more than {SCRIPT_BYTES_MAX:,} bytes")
    try:
        return Script(path, content, compile(content, str(path), "exec", dont_inherit=True))
    except SyntaxError as error:
        raise InputError(
            f"the script is not Python: {error.msg}", where=Place(str(path), error.lineno)
        ) from error
    except ValueError as error:  # null bytes
        raise InputError(f"the script is not Python: {error}", where=str(path)) from error


@contextmanager
def blamed(script: Script, doing: str, line: int | None = None) -> Iterator[None]:
    """Whatever the script raises within becomes an InputError that names its line, or else `line`."""
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
    """The last line of the script on the way to an error."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == str(script.path)]
    return lines[-1] if lines else None


def run_script(
    script: Script, old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[Mapping[Any, Any], int]:
    """What the script's function returns for the old and the new model, and the line where it is defined.

    Raises InputError.
    """
    module = ModuleType("llmrun_migration")
    module.__file__ = str(script.path)
    with blamed(script, "it was loaded"):
        exec(script.code, module.__dict__)  # noqa: S102  the user's own program, named on the command line
    function: Callable[..., object] | None = getattr(module, FUNCTION, None)
    code = getattr(function, "__code__", None)
    if function is None or not isinstance(code, CodeType):
        raise InputError(
            f"the script has no function {FUNCTION}", where=str(script.path), hints=[f"write `{CONTRACT}`"]
        )
    line = code.co_firstlineno
    with blamed(script, f"{FUNCTION} ran"):
        result = function(old, new)
    if not isinstance(result, Mapping):
        raise InputError(
            f"{FUNCTION} returned {type(result).__name__}, not a mapping of names to tensors",
            where=script.where(line),
            hints=[f"write `{CONTRACT}`"],
        )
    return result, line
