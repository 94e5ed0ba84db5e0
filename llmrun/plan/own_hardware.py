"""Accelerators that a user adds: a YAML file in the form of llmrun's own table, every row checked."""

from pathlib import Path
from typing import Any

from llmrun.config.findings import Findings, Place
from llmrun.config.words import nearest, one_of
from llmrun.config.yaml_source import Entry, Mapping, UnreadableError, parse_yaml, plain_value, read_text
from llmrun.plan.hardware import Accelerator

REQUIRED = "memory_GB"
NUMBERS = ("bf16_TFLOPs", "fp32_TFLOPs", REQUIRED, "bandwidth_GBps", "TDP_W")
KEYS = (*NUMBERS, "source")
LEAST, MOST = 1e-6, 1e9
EXAMPLE = "{bf16_TFLOPs: 312, fp32_TFLOPs: 19.5, memory_GB: 80, TDP_W: 400}"


def read_rows(path: str) -> dict[str, Accelerator]:
    """The rows of a file by name.  What a row does not give is unknown.

    Raises InputError where the file cannot be read, ConfigError with all its problems where it is not sound.
    """
    findings = Findings(path)

    def place_of(line: int) -> Place:
        return Place(line, f"{path}:{line}")

    text = read_text(Path(path), "hardware table")
    try:
        tree = parse_yaml(text, place_of, findings)
    except UnreadableError as error:
        findings.add(error.place, error.says, None, error.hint)
        raise findings.error() from error
    if not isinstance(tree, Mapping):
        findings.add(
            Place(0, path), "a hardware table holds rows by name", None, f"write `my-GPU: {EXAMPLE}`"
        )
        raise findings.error()
    rows = {entry.key: _row(entry, path, findings) for entry in tree.entries}
    findings.raise_if_any()
    return rows


def _row(entry: Entry, path: str, findings: Findings) -> Accelerator:
    """One accelerator; what is wrong with it goes to `findings`."""
    name = entry.key
    given: dict[str, Any] = {}
    if not isinstance(entry.value, Mapping):
        findings.add(
            entry.place, f"{name} must be a mapping of keys to values", name, f"write `{name}: {EXAMPLE}`"
        )
        given[REQUIRED] = None
    else:
        for field in entry.value.entries:
            given[field.key] = _value(field, f"{name}.{field.key}", findings)
        if all(field.key != REQUIRED or plain_value(field.value) is None for field in entry.value.entries):
            findings.add(entry.place, f"{name} gives no {REQUIRED}", name, f"write `{name}: {EXAMPLE}`")
    values: dict[str, Any] = {key: given.get(key) for key in NUMBERS}
    return Accelerator(name=name, source=given.get("source") or path, **values)


def _value(field: Entry, spelled: str, findings: Findings) -> Any:
    """The value of one key of a row."""
    value = plain_value(field.value)
    if field.key not in KEYS:
        meant = nearest(field.key, KEYS)
        hint = f"the nearest known key is `{meant}`" if meant else f"a row has {one_of(KEYS)}"
        findings.add(field.place, f"unknown key {spelled}", spelled, hint)
    elif field.key == "source":
        if value is not None and not isinstance(value, str):
            findings.add(field.place, f"{spelled} must be text", spelled, None)
            return None
    elif value is not None and not _is_amount(value):
        or_null = "" if field.key == REQUIRED else ", or null where it is unknown"
        says = f"{spelled} must be a number from {LEAST:g} to {MOST:g}{or_null}"
        findings.add(field.place, says, spelled, None)
        return None
    return value


def _is_amount(value: Any) -> bool:
    """Whether a value is a number that a device can have; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= MOST
