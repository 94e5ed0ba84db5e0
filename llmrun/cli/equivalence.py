"""`llmrun equivalence`: groups of runs compared by what they learn, and the number of runs that this takes."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmrun.verify.statistical.equivalence import Margin
    from llmrun.verify.statistical.groups import Group


def equivalence(
    baseline: Annotated[
        list[str],
        typer.Option(
            "--baseline", metavar="RUNS", help="Runs of one group: names, paths, commas, or a quoted pattern."
        ),
    ],
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            metavar="RUNS",
            help="The other group; without it, how many runs a comparison takes.",
        ),
    ] = None,
    margin: Annotated[
        str,
        typer.Option(
            "--margin",
            metavar="X",
            help="The largest difference that does not matter: `1%` of perplexity, or nats.",
        ),
    ] = "1%",
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="P", help="Probability of a false finding.")
    ] = 0.05,
    power: Annotated[
        float,
        typer.Option(
            "--power", metavar="P", help="Wanted probability of showing equivalence, for the runs needed."
        ),
    ] = 0.8,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw both groups into a .png, .svg or .pdf file."),
    ] = None,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two groups of runs, whose bits need not be equal, by their losses.

    Groups of runs with other seeds, or on other hardware, are shown equivalent up to a margin, or different, or the
    number of runs that would show it is named.  Needs scipy, and --plot needs matplotlib.
    """
    from llmrun.errors import InputError

    if not 0.0 < alpha < 0.5:
        raise InputError(f"--alpha must be between 0 and 0.5, got {alpha:g}")
    if not 0.0 < power < 1.0:
        raise InputError(f"--power must be between 0 and 1, got {power:g}")
    if plot is not None and not candidate:
        raise InputError("--plot needs --candidate", hints=["add `--candidate RUNS`"])
    require("scipy", "stats", "llmrun equivalence")
    from llmrun.verify.statistical.equivalence import parse_margin
    from llmrun.verify.statistical.groups import load_group

    allowed = parse_margin(margin)
    if plot is not None:
        from llmrun.verify.statistical.plot import check_plot_file

        require("matplotlib", "plot", "--plot")
        check_plot_file(Path(plot))
    base = load_group("baseline", baseline, runs_dir)
    if candidate:
        compare(base, load_group("candidate", candidate, runs_dir), allowed, alpha, power, plot, as_json)
    else:
        plan(base, allowed, alpha, power, as_json)


def compare(
    baseline: "Group",
    candidate: "Group",
    margin: "Margin",
    alpha: float,
    power: float,
    plot: str | None,
    as_json: bool,
) -> None:
    """Compare two groups; ends with exit code 1 if they are not shown equivalent."""
    from llmrun.cli.verdict import print_report
    from llmrun.errors import EXIT_DIFFERENT
    from llmrun.verify.statistical.equivalence import compare_groups
    from llmrun.verify.statistical.plot import write_plot
    from llmrun.verify.statistical.render import lines_of

    found = compare_groups(baseline, candidate, margin, alpha, power)
    if plot is not None:
        write_plot(found, Path(plot))
    print_report({**found.as_json(), "plot": plot}, lines_of(found), as_json=as_json)
    if found.answer != "equivalent":
        raise typer.Exit(EXIT_DIFFERENT)


def plan(baseline: "Group", margin: "Margin", alpha: float, power: float, as_json: bool) -> None:
    """Print the number of runs that a comparison with `baseline` needs."""
    from llmrun.cli.verdict import print_report
    from llmrun.verify.statistical.render import lines_of_plan
    from llmrun.verify.statistical.sample_size import plan_seeds

    found = plan_seeds(baseline, margin, alpha, power)
    print_report(found.as_json(), lines_of_plan(found), as_json=as_json)


def require(package: str, extra: str, user: str) -> None:
    """Raises RefusedError if a package of an extra of llmrun is not installed."""
    from llmrun.errors import RefusedError

    try:
        import_module(package)
    except ImportError as error:
        raise RefusedError(
            f"cannot import {package}, which {user} needs: {error}",
            hints=[f"`pip install 'llmrun[{extra}]'`"],
        ) from error
