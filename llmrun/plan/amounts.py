"""How amounts are written in a plan: units last, decimal prefixes, `—` for what is unknown."""

from datetime import timedelta

UNKNOWN = "—"

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNT_UNITS = ("", " K", " M", " B", " T")


def show_bytes(n_bytes: int) -> str:
    """Bytes with a decimal prefix: 1 GB is 10^9 bytes."""
    size, unit = float(n_bytes), 0
    while size >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{n_bytes} B" if unit == 0 else f"{size:,.{_decimals(size)}f} {_BYTE_UNITS[unit]}"


def show_count(count: int) -> str:
    """A count with K, M, B or T, three digits: 124439808 -> `124 M`."""
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_COUNT_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{count:,}" if unit == 0 else f"{size:,.{_decimals(size)}f}{_COUNT_UNITS[unit]}"


def show_FLOPs(FLOPs: int) -> str:
    """FLOPs as a power of ten with three digits: `8.94e+17`."""
    return f"{FLOPs:.2e}"


def show_hours(hours: float) -> str:
    """A duration in the unit that suits it: seconds, minutes, hours or days."""
    if hours * 60 < 2:
        return f"{hours * 3600:.3g} seconds"
    if hours < 2:
        return f"{hours * 60:.3g} minutes"
    if hours < 48:
        return f"{hours:.3g} hours"
    return f"{timedelta(hours=hours) / timedelta(days=1):,.1f} days"


def show_real(value: float) -> str:
    """A real number with three digits, or whole with separators where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show_kWh(energy: float) -> str:
    """Energy."""
    return f"{show_real(energy)} kWh"


def show_yuan(money: float) -> str:
    """Money, always yuan."""
    return f"¥ {money:,.0f}" if money >= 100 else f"¥ {money:,.2f}"


def _decimals(size: float) -> int:
    """Decimals that leave three digits of a size below 1000."""
    return 2 if size < 9.995 else 1 if size < 99.95 else 0
