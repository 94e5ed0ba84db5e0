"""`llmrun verify --statistical`: groups of runs, whose bits need not be equal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from llmrun.cli import console


@dataclass(frozen=True)
class GroupsAsked:
    """The options that speak of groups, as they were typed."""

    baseline: Sequence[str]
    candidate: Sequence[str]
    margin: str | None
    alpha: float
    power: float
    plot: str | None

    @property
    def are_named(self) -> bool:
        """Whether there is any group."""
        return bool(self.baseline or self.candidate)

    def check_for_bits(self) -> None:
        """Raises InputError where an option of groups was given without a group."""
        from llmrun.errors import InputError

        for name, given in (("--margin", self.margin), ("--plot", self.plot)):
            if given is not None:
                raise InputError(f"{name} is for groups of runs", hints=[EXAMPLE])

    def check(self, positional: Sequence[str]) -> None:
        """Raises InputError where the options do not go together.  positional: A and B, where they were given."""
        from llmrun.errors import InputError

        if positional:
            raise InputError(
                f"{' and '.join(positional)}: groups of runs are named by options", hints=[EXAMPLE]
            )
        if not self.baseline:
            raise InputError(
                "--statistical compares groups of runs, and no baseline is named", hints=[EXAMPLE]
            )
        if not 0.0 < self.alpha < 0.5:
            raise InputError(f"--alpha {self.alpha:g} is no error rate: it must be above 0 and below 0.5")
        if not 0.0 < self.power < 1.0:
            raise InputError(f"--power {self.power:g} is no chance: it must be above 0 and below 1")
        if self.plot is not None and not self.candidate:
            raise InputError(
                "--plot draws two groups, and no candidate is named", hints=["add `--candidate RUNS`"]
            )


EXAMPLE = "`llmrun verify --statistical --baseline 'base-*' --candidate 'new-*'`"


def verify_groups(asked: GroupsAsked, positional: Sequence[str], runs_dir: str, as_json: bool) -> None:
    """Compare two groups, or say how many seeds a comparison with one baseline takes.

    Ends with exit code 0 where the groups are equivalent, 1 where that is not shown.
    """
    from llmrun.errors import EXIT_DIFFERENT
    from llmrun.verify.statistical.compare import compare_groups
    from llmrun.verify.statistical.groups import load_group
    from llmrun.verify.statistical.margin import DEFAULT, parse_margin
    from llmrun.verify.statistical.plot import check_plot_file, write_plot
    from llmrun.verify.statistical.report import lines_of, plan_lines
    from llmrun.verify.statistical.sample_size import plan_seeds

    asked.check(positional)
    margin = parse_margin(asked.margin or DEFAULT)
    file = None if asked.plot is None else Path(asked.plot)
    if file is not None:
        check_plot_file(file)
    baseline = load_group("baseline", asked.baseline, runs_dir)
    if not asked.candidate:
        plan = plan_seeds(baseline, margin, asked.alpha, asked.power)
        _show(plan.as_json(), plan_lines(plan), as_json)
        return
    candidate = load_group("candidate", asked.candidate, runs_dir)
    found = compare_groups(baseline, candidate, margin, asked.alpha, asked.power)
    if file is not None:
        write_plot(found, file)
    _show({**found.as_json(), "plot": asked.plot}, lines_of(found), as_json)
    if found.answer != "equivalent":
        raise typer.Exit(EXIT_DIFFERENT)


def _show(document: dict[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """The document where one is wanted, else the lines."""
    if as_json:
        console.emit_json(document)
    else:
        console.out("\n".join(console.printable(line) for line in lines))
