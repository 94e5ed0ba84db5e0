"""The hardware table: what one accelerator can do at most, by its row's name; users add rows of their own."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from llmrun.config.findings import Findings, SourcePlace
from llmrun.config.words import nearest, one_of
from llmrun.config.yaml_source import Mapping, UnreadableError, YamlEntry, parse_yaml, plain_value, read_text
from llmrun.errors import InputError, Place

TABLE_NAME = "hardware.yaml"


class Accelerator(NamedTuple):
    """One device as torch counts devices.  Rates are dense peaks; None is unknown.

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
        """Peak dense FLOP/s at `precision` (fp32 or bf16); None where there is none."""
        rate = {"bf16": self.bf16_TFLOPs, "fp32": self.fp32_TFLOPs}[precision]
        return None if rate is None else rate * 1e12

    @property
    def memory_bytes(self) -> int:
        """Device memory."""
        return round(self.memory_GB * 1e9)


@cache
def hardware_table() -> dict[str, Accelerator]:
    """All rows of llmrun by name."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files("llmrun.plan").joinpath(TABLE_NAME).read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = yaml.load(text, Loader=loader)  # noqa: S506  a safe loader either way
    return {name: Accelerator(name=name, **row) for name, row in rows.items()}


def accelerator_named(name: str, where: Place | None = None, table: str | None = None) -> Accelerator:
    """The row called `name`, whatever its case.

    where: the config's place that names it, for the message.
    table: a file with rows of the user, which stand before llmrun's own.
    Raises InputError with the nearest row and the list of all, and where the file is not sound.
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
    hints = [f"the nearest row is {by_folded_name[nearest[0]]}"] if nearest else []
    raise InputError(
        f"the hardware table has no accelerator {name!r}",
        where=where or Place(key="hardware.accelerator"),
        hints=[
            *hints,
            f"its rows are {', '.join(rows)}",
            "a YAML file named by `hardware.table` adds rows of your own (docs/planning.md)",
        ],
    )


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

    def place_of(line: int) -> SourcePlace:
        return SourcePlace(line, Place(path, line))

    text = read_text(Path(path), "hardware table")
    try:
        tree = parse_yaml(text, place_of, findings)
    except UnreadableError as error:
        findings.add(error.place, error.message, None, error.hint)
        raise findings.error() from error
    if not isinstance(tree, Mapping):
        findings.add(
            SourcePlace(0, Place(path)),
            "a hardware table holds rows by name",
            None,
            f"write `my-GPU: {EXAMPLE}`",
        )
        raise findings.error()
    rows = {entry.key: _row(entry, path, findings) for entry in tree.entries}
    findings.raise_if_any()
    return rows


def _row(entry: YamlEntry, path: str, findings: Findings) -> Accelerator:
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


def _value(field: YamlEntry, spelled: str, findings: Findings) -> Any:
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
        message = f"{spelled} must be a number from {LEAST:g} to {MOST:g}{or_null}"
        findings.add(field.place, message, spelled, None)
        return None
    return value


def _is_amount(value: Any) -> bool:
    """Whether a value is a number that a device can have; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= MOST
