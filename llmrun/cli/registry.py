"""The commands: where each lives, its one line of help, its exit codes.

Help lists them from here without importing any command's module.
"""

from dataclasses import dataclass

MEANINGS = {
    0: "done",
    1: "different, or damaged",
    2: "the input is wrong",
    3: "refused before anything was started: something changed, is locked, or there is too little disk",
    4: "the run failed and can be resumed: `llmrun resume`",
    5: "nothing was compared: neither equal nor different",
    70: "a bug of llmrun; the screen names the file with the traceback",
    75: "preempted after saving, or before the first step: `llmrun resume`",
}


@dataclass(frozen=True)
class Command:
    """One command: `function` of `module`.

    says: the first line of the function's docstring, repeated here so that help needs no import.
    exits: the exit codes that it can end with, beside 70.
    """

    module: str
    function: str
    says: str
    exits: tuple[int, ...]
    meanings: tuple[tuple[int, str], ...] = ()

    def exit_table(self) -> str:
        """The table that ends the command's help."""
        meanings = MEANINGS | dict(self.meanings)
        rows = [f"  {code:<3} {meanings[code]}" for code in (*self.exits, 70)]
        return "\n".join(["\b", "Exit codes:", *rows])


@dataclass(frozen=True)
class Group:
    """Commands below one word."""

    says: str
    commands: dict[str, "Command"]


RUNS = (0, 2, 3, 4, 75)

DATA = Group(
    says="Make, check and show datasets.",
    commands={
        "prepare": Command(
            module="llmrun.cli.data",
            function="prepare",
            says="Turn text into a dataset directory of token shards.",
            exits=(0, 2, 3),
        ),
        "check": Command(
            module="llmrun.cli.data",
            function="check",
            says="Check every shard of a dataset against its sha256.",
            exits=(0, 1, 2),
            meanings=((0, "sound"), (1, "damaged: the files are named")),
        ),
        "show": Command(
            module="llmrun.cli.data",
            function="show",
            says="Print what a dataset holds.",
            exits=(0, 2),
        ),
    },
)

CHECKPOINTS = Group(
    says="List, check and prune a run's checkpoints.",
    commands={
        "list": Command(
            module="llmrun.cli.checkpoints",
            function="list_",
            says="List a run's checkpoints: steps, sizes, val_ppl, whole or damaged.",
            exits=(0, 2),
        ),
        "check": Command(
            module="llmrun.cli.checkpoints",
            function="check",
            says="Check every byte of a run's checkpoints against SHA256SUMS, the manifest and the ledger.",
            exits=(0, 1, 2),
            meanings=((0, "sound"), (1, "damaged: the files are named")),
        ),
        "prune": Command(
            module="llmrun.cli.checkpoints",
            function="prune",
            says="Delete all checkpoints but the newest and the best, after the newest was read and found sound.",
            exits=(0, 1, 2, 3),
            meanings=((1, "damaged: nothing was deleted"), (3, "the run is under way: its owner is named")),
        ),
    },
)

RUNS_GROUP = Group(
    says="List and show runs, and how two differ.",
    commands={
        "list": Command(
            module="llmrun.cli.runs",
            function="list_runs",
            says="List all runs below a directory.",
            exits=(0, 2),
        ),
        "show": Command(
            module="llmrun.cli.runs",
            function="show",
            says="Show one run: what it came from and each of its segments.",
            exits=(0, 1, 2),
            meanings=((1, "damaged: run.json contradicts itself"),),
        ),
        "diff": Command(
            module="llmrun.cli.runs",
            function="diff",
            says="Show how two runs differ in config, data, code and environment, as they were last trained.",
            exits=(0, 1, 2),
            meanings=((1, "damaged: run.json contradicts itself"),),
        ),
    },
)

COMMANDS: dict[str, Command | Group] = {
    "plan": Command(
        module="llmrun.cli.plan",
        function="plan",
        says="Derive batch, FLOPs, memory, checkpoints, time and cost from a config.",
        exits=(0, 2),
    ),
    "train": Command(
        module="llmrun.cli.train",
        function="train",
        says="Start a run from a config, or continue it.",
        exits=RUNS,
    ),
    "resume": Command(
        module="llmrun.cli.resume",
        function="resume",
        says="Continue a run from its newest sound checkpoint.",
        exits=RUNS,
    ),
    "verify": Command(
        module="llmrun.cli.verify",
        function="verify",
        says="Prove two runs bitwise equal, or name the first difference; prove one run by executing steps again.",
        exits=(0, 1, 2, 3, 4, 5),
        meanings=(
            (0, "equal; groups of runs: equivalent"),
            (
                1,
                "different: the first divergent step and quantity are named; damaged; groups: not shown equivalent",
            ),
            (3, "refused: the steps cannot be executed here"),
            (4, "the steps could not be executed to their end: a worker failed"),
        ),
    ),
    "migrate": Command(
        module="llmrun.cli.migrate",
        function="migrate",
        says="Make a new run of a checkpoint, for a changed model.",
        exits=(0, 1, 2, 3),
        meanings=((1, "the checkpoint is damaged: the files are named"),),
    ),
    "sample": Command(
        module="llmrun.cli.sample",
        function="sample",
        says="Print text that a run's model writes.",
        exits=(0, 1, 2, 3),
        meanings=((1, "damaged: run.json contradicts itself"),),
    ),
    "data": DATA,
    "checkpoints": CHECKPOINTS,
    "runs": RUNS_GROUP,
}
