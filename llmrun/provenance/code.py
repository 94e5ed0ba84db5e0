"""The code part of the fingerprint: which source files can change bits, and the digest of one.

Only the sources below `llmrun/core/` and the user's own modules count.  `core` imports nothing of llmrun but itself and
the leaf modules `errors` and `text`, so nothing outside it can change a bit; tests hold both.

The digest of a source ignores comments, docstrings and formatting.  It is taken of the syntax tree, written out with
node names and fields in alphabetical order, without positions, empty fields and docstrings.  (`ast.dump` and
`ast.unparse` differ between Python versions; this form is the same from Python 3.11 on.)
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
CORE = "llmrun/core/"

IGNORED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of the syntax tree that add nothing: `ctx` follows from the place, `kind` is the u of u"..."."""

WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def is_numeric(name: str) -> bool:
    """Whether the source file `name` (an import path such as `llmrun/core/step.py`) belongs to the fingerprint."""
    return name.startswith(CORE) or not name.startswith("llmrun/")


@cache
def numeric_files(package: Path = PACKAGE) -> dict[str, str]:
    """Digest of every source of llmrun that can change bits, loaded or not, by import path.

    All of them count, so that the fingerprint does not depend on which of them a setting makes a worker load.
    package: the directory `llmrun`.
    """
    return {
        f"llmrun/{path.relative_to(package).as_posix()}": source_digest(path.read_bytes())
        for path in sorted((package / "core").rglob("*.py"))
    }


def code_preimage(source_files: Mapping[str, str]) -> dict[str, str]:
    """The preimage of the fingerprint's part `code`: digest of each numeric source, by import path."""
    return {name: digest for name, digest in sorted(source_files.items()) if is_numeric(name)}


def is_imported(name: str, source_files: Mapping[str, str]) -> bool:
    """Whether the path `name` in a repository ends with the import path of a file that a worker imports."""
    parts = name.split("/")
    return any("/".join(parts[start:]) in source_files for start in range(len(parts)))


def imported_of(names: Iterable[str], source_files: Mapping[str, str]) -> list[str]:
    """The paths among `names` that a worker imports (`is_imported`)."""
    return [name for name in names if is_imported(name, source_files)]


@cache
def source_digest(source: bytes) -> str:
    """sha256, in hex, of a normalised Python source file; of its bytes if it does not parse as Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(b"unparsed\0" + source).hexdigest()
    return hashlib.sha256("".join(_written(tree)).encode("utf-8", "surrogatepass")).hexdigest()


def _written(node: object) -> list[str]:
    """One node, list or constant of a syntax tree as text that no other one has."""
    if isinstance(node, ast.AST):
        parts = [type(node).__name__, "("]
        for name in sorted(node._fields):
            value: Any = getattr(node, name, None)
            if name == "body" and isinstance(node, WITH_DOCSTRING):
                value = _without_docstring(value)
            if name == "values" and isinstance(node, ast.JoinedStr):
                value = _without_empty(value)
            if name not in IGNORED_FIELDS and value is not None and value != []:
                parts += [name, "=", *_written(value), ","]
            elif name == "value" and isinstance(node, ast.Constant):
                parts += [name, "=None,"]
        return [*parts, ")"]
    if isinstance(node, list):
        return ["[", *(text for item in node for text in (*_written(item), ",")), "]"]
    return [f"{type(node).__name__}:{node!r}"]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a module, class or function without strings that stand alone.

    These are its docstring, and those that document the assignment above them.
    """
    return [
        statement
        for statement in body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]


def _without_empty(values: list[ast.expr]) -> list[ast.expr]:
    """The pieces of an f-string without the empty texts that Python 3.12.0 to 3.12.3 put between them."""
    return [value for value in values if not (isinstance(value, ast.Constant) and value.value == "")]
