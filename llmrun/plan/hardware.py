"""The hardware table: what one accelerator can do at most, by its row's name; users add rows of their own."""

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from llmrun.errors import InputError

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


def accelerator_named(name: str, where: str | None = None, table: str | None = None) -> Accelerator:
    """The row called `name`, whatever its case.

    where: the config's place that names it, for the message.
    table: a file with rows of the user, which stand before llmrun's own.
    Raises InputError with the nearest row and the list of all, and where the file is not sound.
    """
    rows = hardware_table()
    if table is not None:
        from llmrun.plan.own_hardware import read_rows

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
        where=where or "hardware.accelerator",
        hints=[
            *hints,
            f"its rows are {', '.join(rows)}",
            "a YAML file named by `hardware.table` adds rows of your own (docs/planning.md)",
        ],
    )
