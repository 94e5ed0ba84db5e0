"""Amounts in a plan as text: units last, decimal prefixes, `—` for unknown."""

from llmrun.plan.render.language import Translate, english

UNKNOWN = "—"

_COUNT_UNITS = ("", " K", " M", " B", " T")


def show_count(count: int) -> str:
    """A count with K, M, B or T, three digits: 124439808 -> `124 M`."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_COUNT_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{count:,}" if unit == 0 else f"{size:,.{_decimals(size)}f}{_COUNT_UNITS[unit]}"


def show_FLOPs(FLOPs: int) -> str:
    """FLOPs as a power of ten with three digits: `8.94e+17`."""
    return f"{FLOPs:.2e}"


def show_hours(hours: float, translate: Translate = english) -> str:
    """A duration in seconds, minutes, hours or days."""
    if hours * 60 < 2:
        return translate("{amount} seconds", amount=f"{hours * 3600:.3g}")
    if hours < 2:
        return translate("{amount} minutes", amount=f"{hours * 60:.3g}")
    if hours < 48:
        return translate("{amount} hours", amount=f"{hours:.3g}")
    days = hours / 24
    return translate("{amount} days", amount=f"{days:,.1f}" if days < 1e6 else f"{days:.3g}")


def show_real(value: float) -> str:
    """Three significant digits; a whole number from 100 on, scientific notation from 10^12 on."""
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def show_kWh(energy: float) -> str:
    """Energy in kWh."""
    return f"{show_real(energy)} kWh"


def show_yuan(money: float) -> str:
    """Money in yuan."""
    return f"¥ {show_real(money)}" if money >= 100 else f"¥ {money:,.2f}"


def show_tonnes(tonnes: float) -> str:
    """CO2 in tonnes, or in kg below one."""
    return f"{show_real(tonnes)} t" if tonnes >= 1 else f"{show_real(tonnes * 1000)} kg"


def show_percent(share: float) -> str:
    """A share with four digits: 0.99532 -> 99.53 %."""
    return f"{100 * share:.4g} %"


def _decimals(size: float) -> int:
    """The number of decimals for three digits of a size below 1000."""
    return 2 if size < 9.995 else 1 if size < 99.95 else 0
