"""Two plans side by side as text."""

from collections.abc import Callable
from typing import NamedTuple

from llmrun.plan.plan import Plan, fitting
from llmrun.plan.render.amounts import (
    UNKNOWN,
    show_count,
    show_FLOPs,
    show_hours,
    show_kWh,
    show_percent,
    show_real,
    show_tonnes,
    show_yuan,
)
from llmrun.plan.render.explain import table
from llmrun.plan.render.language import Translate, english, padded, width
from llmrun.text import format_bytes


class Figure(NamedTuple):
    """One line of the comparison.  value: of a plan; None if unknown.  show: formats it."""

    label: str
    value: Callable[[Plan], float | None]
    show: Callable[[float], str]


def comparison(first: Plan, second: Plan, translate: Translate = english) -> str:
    """Every figure of both plans, with the ratio of the second to the first."""
    heading = ["", first.config.name, second.config.name, translate("second / first"), ""]
    rows = [_cells(figure, first, second) for figure in figures(translate)]
    columns = max(width(row[0]) for row in rows)
    rows = [[padded(row[0], columns), *row[1:]] for row in rows]
    rows.append(["", *(_verdict(plan, translate) for plan in (first, second)), "", ""])
    lines = table(heading, rows)
    if any(plan.costs.time_hours is not None for plan in (first, second)):
        lines.append(translate("the time does not include evaluation and saving"))
    return "\n".join(lines)


def _cells(figure: Figure, first: Plan, second: Plan) -> list[str]:
    a, b = figure.value(first), figure.value(second)
    shown = [UNKNOWN if value is None else figure.show(value) for value in (a, b)]
    ratio = f"{b / a:.3g}" if a and b is not None and a != b else "=" if a == b else UNKNOWN
    return [figure.label, *shown, ratio, ""]


def _verdict(plan: Plan, translate: Translate) -> str:
    """Whether a plan fits its accelerator."""
    found = fitting(plan)
    return UNKNOWN if found is None else translate("fits") if found.fits else translate("does not fit")


def figures(translate: Translate) -> list[Figure]:
    """The figures that are compared."""

    def hours(value: float) -> str:
        return show_hours(value, translate)

    def whole(value: float) -> str:
        return f"{value:,}"

    return [
        Figure("GB_tok", lambda plan: plan.batch.gb_tok, whole),
        Figure("D", lambda plan: plan.batch.D, whole),
        Figure("A", lambda plan: plan.batch.A, whole),
        Figure("μ_tok", lambda plan: plan.batch.mu_tok, whole),
        Figure("V", lambda plan: plan.batch.V, whole),
        Figure(translate("steps"), lambda plan: plan.batch.steps, whole),
        Figure(translate("tokens seen"), lambda plan: plan.batch.tokens_seen, lambda n: show_count(round(n))),
        Figure("N_params", lambda plan: plan.parameters.N_params, lambda n: show_count(round(n))),
        Figure("N_params_total", lambda plan: plan.parameters.N_params_total, lambda n: show_count(round(n))),
        Figure("FLOPs", lambda plan: plan.FLOPs, lambda n: show_FLOPs(round(n))),
        Figure(
            translate("memory per rank"),
            lambda plan: plan.memory.device_bytes,
            lambda n: format_bytes(round(n)),
        ),
        Figure(translate("checkpoint"), lambda plan: plan.checkpoint.total, lambda n: format_bytes(round(n))),
        Figure(
            translate("on disk"),
            lambda plan: plan.retention.count * plan.checkpoint.total,
            lambda n: format_bytes(round(n)),
        ),
        Figure(translate("save every"), lambda plan: plan.saving.daly.interval_s / 3600, hours),
        Figure("goodput", lambda plan: (plan.saving.configured or plan.saving.daly).goodput, show_percent),
        Figure(translate("time"), lambda plan: plan.costs.time_hours, hours),
        Figure(translate("GPU-hours"), lambda plan: plan.costs.GPU_hours, show_real),
        Figure(translate("energy"), lambda plan: plan.costs.energy_kWh, show_kWh),
        Figure("CO2", lambda plan: plan.costs.tCO2, show_tonnes),
        Figure(translate("price of energy"), lambda plan: plan.costs.yuan_energy, show_yuan),
        Figure(translate("price of GPUs"), lambda plan: plan.costs.yuan_GPU, show_yuan),
    ]
