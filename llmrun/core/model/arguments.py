"""The arguments that a model factory is called with, checked against its signature (no torch).

The function gets the entries of `model.args` as keywords.  If it has a parameter named `vocab_size` or `L_ctx` that
`model.args` does not give, it also gets the config's own.
"""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from llmrun.errors import InputError, Place

CONFIG_ARGUMENTS = ("vocab_size", "L_ctx")
"""Values of the config that a factory gets if it has a parameter of this name."""

KEY = "model.args"
_PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def call_arguments(
    function: Callable[..., Any], factory: str, args: Mapping[str, Any], from_config: Mapping[str, int]
) -> dict[str, Any]:
    """The keywords that `function` is called with.

    factory:     `module:function`, for messages.
    from_config: the config's value of each of `CONFIG_ARGUMENTS`.
    Raises InputError with all problems: arguments that are unknown, missing or of another type than annotated.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable of C code has none: calling it tells
        return dict(args)
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {name: from_config[name] for name in CONFIG_ARGUMENTS if name in named} | dict(args)
    hints = _hints_of(function)
    problems = [
        *(() if takes_any else (_unknown(name, named) for name in given if name not in named)),
        *(_wrong_type(name, value, hints[name]) for name, value in given.items() if name in hints),
        *(_missing(parameter) for name, parameter in named.items() if name not in given),
        *(_positional(parameter) for parameter in parameters.values()),
    ]
    found = [problem for problem in problems if problem is not None]
    if not found:
        return given
    first = found[0] if len(found) == 1 else f"{KEY} has {len(found)} problems"
    raise InputError(
        first,
        where=Place(key=KEY),
        caused_by=[] if len(found) == 1 else found,
        hints=[f"{factory}{_shown(parameters.values())}"],
    )


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotated types by parameter; empty if an annotation cannot be read here."""
    called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        return typing.get_type_hints(called)
    except Exception:  # noqa: BLE001  annotations are the user's code
        return {}


def _shown(parameters: Iterable[inspect.Parameter]) -> str:
    """The signature, for the hint."""
    return f"({', '.join(str(parameter) for parameter in parameters)})"


def _unknown(name: str, named: Mapping[str, inspect.Parameter]) -> str:
    near = difflib.get_close_matches(name, named, n=1, cutoff=0.6)
    return f"unknown argument {KEY}.{name}" + (f": did you mean `{near[0]}`?" if near else "")


def _missing(parameter: inspect.Parameter) -> str | None:
    if parameter.default is not parameter.empty:
        return None
    return f"missing argument {KEY}.{parameter.name}"


def _positional(parameter: inspect.Parameter) -> str | None:
    if parameter.kind is not parameter.POSITIONAL_ONLY or parameter.default is not parameter.empty:
        return None
    return f"the parameter {parameter.name} must be one that a keyword can give"


def _wrong_type(name: str, value: Any, kind: Any) -> str | None:
    if fits(value, kind):
        return None
    return f"{KEY}.{name} must be {described(kind)}, got {value!r}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of an annotated type; True for annotations that no JSON value can be compared with."""
    origin = get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in get_args(kind))
    if kind in (None, types.NoneType):
        return value is None
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind is list or origin is list:
        return isinstance(value, list) and all(fits(item, part) for part in get_args(kind) for item in value)
    if kind is dict or origin is dict:
        inner = get_args(kind)[1:]
        return isinstance(value, dict) and all(fits(item, part) for part in inner for item in value.values())
    return True


def described(kind: Any) -> str:
    """An annotated type in words: `a whole number or null`."""
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(described(part) for part in get_args(kind))
    if kind in (None, types.NoneType):
        return "null"
    plain = _PLAIN.get(origin or kind)
    return plain if plain is not None else getattr(kind, "__name__", str(kind))
