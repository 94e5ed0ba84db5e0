"""Problems collected from all passes over a config, sorted by where they are in the user's file."""

from dataclasses import dataclass, field

from llmrun.errors import ConfigError, Place, Problem


@dataclass(frozen=True, order=True)
class SourceLocation:
    """Where a value was written.

    order: sort key among all locations of a config.
    where: the file and line, or the option.
    """

    order: int
    where: Place = field(compare=False)


class Problems:
    """The problems found so far in one config or table; `source` is its file name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[SourceLocation, Problem]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self, location: SourceLocation, message: str, key: str | None = None, hint: str | None = None
    ) -> None:
        """Record one problem."""
        self._found.append((location, Problem(message, key, location.where, hint)))

    def error(self) -> ConfigError:
        """One error with all problems, sorted by location."""
        in_order = sorted(self._found, key=lambda found: found[0].order)
        return ConfigError(self.source, [problem for _, problem in in_order])

    def raise_if_any(self) -> None:
        """Raise ConfigError if a problem was recorded."""
        if self._found:
            raise self.error()
