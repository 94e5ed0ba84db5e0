"""The installed packages, asked for once in a process: pip takes a second."""

from functools import cache

from llmrun.provenance.packages import PackageQuestion, Packages


@cache
def installed() -> Packages:
    """What pip answers."""
    return PackageQuestion().answer()


class QuickQuestion:
    """Stands for `PackageQuestion` in launchers that start many runs; pip itself is asked in tests/provenance."""

    def ready(self, _timeout_s: float) -> bool:
        """Always."""
        return True

    def answer(self) -> Packages:
        """The packages, as they were at the first question."""
        return installed()

    def withdraw(self) -> None:
        """Nothing to end."""
