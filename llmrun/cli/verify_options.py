"""The options of `llmrun verify`: three ways to compare, one command."""

from typing import Annotated

import typer

A = Annotated[str | None, typer.Argument(metavar="A", help="A run, a checkpoint, or a ledger.bin.")]
B = Annotated[
    str | None,
    typer.Argument(metavar="B", help="What to compare it with; without it, steps of A are executed again."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Demand the same length and the same fingerprint too.")
]
FromStep = Annotated[
    int | None,
    typer.Option(
        "--from",
        metavar="STEP",
        min=0,
        help="Execute again what follows this step; default: the last checkpoint's.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="How many; 20, or 1 where modules are compared."),
]
Ranks = Annotated[
    int | None, typer.Option("--D", metavar="RANKS", min=1, help="On any D from 1 to V: the same bits.")
]
Windows = Annotated[
    int | None,
    typer.Option("--windows", metavar="K", min=1, help="Draw K windows of N steps from the whole run."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="SEED", min=0, help="Of the draw, beside the run's chain; 0."),
]
Bisect = Annotated[
    bool, typer.Option("--bisect", help="Name the first module whose tensors differ in two executions.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Where the run's dataset lies now.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Statistical = Annotated[
    bool, typer.Option("--statistical", help="Compare groups of runs, whose bits need not be equal.")
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline", metavar="RUNS", help="Runs of one group: names, paths, commas, or a quoted pattern."
    ),
]
Candidate = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate", metavar="RUNS", help="The other group; without it, how many seeds it will take."
    ),
]
Margin = Annotated[
    str | None,
    typer.Option(
        "--margin",
        metavar="X",
        help="The largest difference that does not matter: 1% of perplexity, or nats.",
    ),
]
Alpha = Annotated[float, typer.Option("--alpha", metavar="P", help="Chance of a false finding.")]
Power = Annotated[
    float,
    typer.Option("--power", metavar="P", help="Wanted chance to show equivalence, for the seeds needed."),
]
Plot = Annotated[
    str | None, typer.Option("--plot", metavar="FILE", help="Draw both groups: .png, .svg or .pdf.")
]
