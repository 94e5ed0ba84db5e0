"""Problems gathered from all passes over a config, in the order in which the user wrote it."""

from dataclasses import dataclass, field

from llmrun.errors import ConfigError, Place, Problem


@dataclass(frozen=True, order=True)
class SourcePlace:
    """Where something was written: its rank among all places, and the words for it (`gpt.yaml:14`)."""

    order: int
    where: Place = field(compare=False)


class Findings:
    """The problems found so far in one config."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[tuple[SourcePlace, Problem]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: SourcePlace, message: str, key: str | None = None, hint: str | None = None) -> None:
        """Note one problem."""
        self._found.append((place, Problem(message, key, place.where, hint)))

    def error(self) -> ConfigError:
        """All problems as one error, in the order of their places."""
        in_order = sorted(self._found, key=lambda found: found[0].order)
        return ConfigError(self.source, [problem for _, problem in in_order])

    def raise_if_any(self) -> None:
        """Raise ConfigError with all problems, if there is one."""
        if self._found:
            raise self.error()
