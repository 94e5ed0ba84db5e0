"""The published figures of `plan_cases.yaml`: runs, what their sources state, what is expected."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CASES_FILE = ROOT / "tests" / "plan_cases.yaml"

NOT_COMPUTED = {
    (
        "bloom-176b",
        "remaining_days",
    ): "the log line gives no number of steps that are left, nor do the inputs",
}
"""Figures that no formula can give from what is published, with the reason."""


@dataclass(frozen=True)
class Expected:
    """One published figure of one case."""

    case: Mapping[str, Any]
    metric: str
    value: float
    unit: str
    formula: str
    basis: str
    tolerance: float
    asserted: bool

    @property
    def key(self) -> tuple[str, str]:
        """Case and metric."""
        return self.case["id"], self.metric

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the source states."""
        return self.case["inputs"]

    def other(self, metric: str) -> float:
        """Another published figure of the same case."""
        return next(float(row["value"]) for row in self.case["expected"] if row["metric"] == metric)


def expected_figures() -> Iterator[Expected]:
    """Every figure of every case, in the order of the file."""
    for case in cases():
        for row in case["expected"]:
            value = float(row["value"])
            yield Expected(
                case=case,
                metric=row["metric"],
                value=value,
                unit=str(row["unit"] or ""),
                formula=row["formula"],
                basis=row["basis"],
                tolerance=row["tol_abs"] if "tol_abs" in row else abs(value) * row["tol_rel"],
                asserted=row.get("assertable", True),
            )


@cache
def cases() -> list[dict[str, Any]]:
    """The cases as the file has them."""
    return yaml.safe_load(CASES_FILE.read_text(encoding="utf-8"))["cases"]
