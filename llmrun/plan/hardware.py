"""The hardware table: peak rates, memory and power of accelerators by name; users can add rows."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from llmrun.config.field_messages import nearest, one_of
from llmrun.config.problems import Problems, SourceLocation
from llmrun.config.yaml_reader import (
    Mapping,
    UnreadableError,
    YamlEntry,
    parse_yaml,
    plain_value,
    read_text,
    show_node,
)
from llmrun.errors import InputError, Place

TABLE_NAME = "hardware.yaml"


class Accelerator(NamedTuple):
    """One device as torch counts devices.  Rates are dense peaks; None: unknown.

    bf16_TFLOPs, fp32_TFLOPs: 10^12 FLOP/s.  memory_GB: 10^9 bytes.  bandwidth_GBps: 10^9 bytes/s.  TDP_W: W.
    """

    name: str
    bf16_TFLOPs: float | None
    fp32_TFLOPs: float | None
    memory_GB: float
    bandwidth_GBps: float | None
    TDP_W: float | None
    source: str

    def peak_FLOPs(self, precision: str) -> float | None:
        """Peak dense FLOP/s at `precision` (fp32 or bf16); None if unknown."""
        rate = {"bf16": self.bf16_TFLOPs, "fp32": self.fp32_TFLOPs}[precision]
        return None if rate is None else rate * 1e12

    @property
    def memory_bytes(self) -> int:
        """Device memory in bytes."""
        return round(self.memory_GB * 1e9)


@cache
def hardware_table() -> dict[str, Accelerator]:
    """The built-in rows by name."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("llmrun.plan").joinpath(TABLE_NAME).read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = yaml.load(text, Loader=loader)  # noqa: S506  a safe loader either way
    return {name: Accelerator(name=name, **row) for name, row in rows.items()}


def accelerator_named(name: str, where: Place | None = None, table: str | None = None) -> Accelerator:
    """The row called `name`, ignoring case.

    where: the place in the config that names it, for the message.
    table: a file with rows of the user, which replace built-in rows of the same name.
    Raises InputError if there is no such row, or if the file is not valid.
    """
    rows = hardware_table()
    if table is not None:
        rows = rows | read_rows(table)
    by_folded_name = {row.casefold(): row for row in rows}
    found = by_folded_name.get(name.casefold())
    if found is not None:
        return rows[found]
    from difflib import get_close_matches

    nearest = get_close_matches(name.casefold(), by_folded_name, n=1, cutoff=0.4)
    hints = [f"did you mean {by_folded_name[nearest[0]]}?"] if nearest else []
    raise InputError(
        f"unknown accelerator {name!r}",
        where=where or Place(key="hardware.accelerator"),
        hints=[
            *hints,
            f"the hardware table has {', '.join(rows)}",
            "add your own rows in a YAML file named by `hardware.table` (docs/planning.md)",
        ],
    )


REQUIRED = "memory_GB"
NUMBERS = ("bf16_TFLOPs", "fp32_TFLOPs", REQUIRED, "bandwidth_GBps", "TDP_W")
KEYS = (*NUMBERS, "source")
LEAST, MOST = 1e-6, 1e9
EXAMPLE = "{bf16_TFLOPs: 312, fp32_TFLOPs: 19.5, memory_GB: 80, TDP_W: 400}"


def read_rows(path: str) -> dict[str, Accelerator]:
    """The rows of a file by name; keys that a row does not give are unknown.

    Raises InputError if the file cannot be read, ConfigError with all problems if it is not valid.
    """
    problems = Problems(path)

    def location_of(line: int) -> SourceLocation:
        return SourceLocation(line, Place(str(path), line))

    text = read_text(Path(path), "hardware table")
    try:
        tree = parse_yaml(text, location_of, problems)
    except UnreadableError as error:
        problems.add(error.location, error.message, None, error.hint)
        raise problems.error() from error
    if not isinstance(tree, Mapping):
        problems.add(
            SourceLocation(0, Place(str(path))),
            "a hardware table must be a mapping of names to rows",
            None,
            f"write `my-GPU: {EXAMPLE}`",
        )
        raise problems.error()
    rows = {entry.key: _row(entry, path, problems) for entry in tree.entries}
    problems.raise_if_any()
    return rows


def _row(entry: YamlEntry, path: str, problems: Problems) -> Accelerator:
    """One accelerator; its problems are added to `problems`."""
    name = entry.key
    given: dict[str, Any] = {}
    if not isinstance(entry.value, Mapping):
        problems.add(
            entry.location, f"{name} must be a mapping of keys to values", name, f"write `{name}: {EXAMPLE}`"
        )
        given[REQUIRED] = None
    else:
        for field in entry.value.entries:
            given[field.key] = _value(field, f"{name}.{field.key}", problems)
        if all(field.key != REQUIRED or plain_value(field.value) is None for field in entry.value.entries):
            problems.add(entry.location, f"{name} must have {REQUIRED}", name, f"write `{name}: {EXAMPLE}`")
    values: dict[str, Any] = {key: given.get(key) for key in NUMBERS}
    return Accelerator(name=name, source=given.get("source") or path, **values)


def _value(field: YamlEntry, spelled: str, problems: Problems) -> Any:
    value = plain_value(field.value)
    if field.key not in KEYS:
        meant = nearest(field.key, KEYS)
        hint = f"did you mean `{meant}`?" if meant else f"a row has {one_of(KEYS)}"
        problems.add(field.location, f"unknown key {spelled}", spelled, hint)
    elif field.key == "source":
        if value is not None and not isinstance(value, str):
            problems.add(
                field.location, f"{spelled} must be text, got {show_node(field.value)}", spelled, None
            )
            return None
    elif value is not None and not _is_amount(value):
        or_null = "" if field.key == REQUIRED else ", or null if unknown"
        message = (
            f"{spelled} must be a number from {LEAST:g} to {MOST:g}{or_null}, got {show_node(field.value)}"
        )
        problems.add(field.location, message, spelled, None)
        return None
    return value


def _is_amount(value: Any) -> bool:
    """Whether a value is a number in range, not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= MOST
