"""The digest of a source file that ignores what cannot change a bit: comments, docstrings and formatting.

The source is parsed, and its syntax tree is written out in a form of our own: node names and fields in alphabetical
order, without positions, without fields that are empty, without docstrings.  (`ast.dump` and `ast.unparse` differ
between Python versions; this form is the same from Python 3.11 on.)
"""

import ast
import hashlib
from functools import cache
from typing import Any

IGNORED_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields that say nothing new: `ctx` follows from the place, `kind` is the u of u"..."."""

WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def source_digest(source: bytes) -> str:
    """sha256, in hex, of a Python source file, normalised; of its bytes if it does not parse as Python."""
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
    """The statements of a module, class or function after its docstring.

    Also without further strings that stand alone: they document the assignment above them.
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
