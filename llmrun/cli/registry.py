"""The commands: where each lives, its one line of help, its exit codes.

Help lists them from here without importing any command's module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
class CommandEntry:
    """One command: `function` of `module`.

    message:  the first line of the function's docstring, repeated here so that help needs no import.
    exits:    the exit codes that it can end with, besides 70.
    meanings: those whose meaning differs from MEANINGS.
    moved:    by command, the options of this command that are options of that one now.
    """

    module: str
    function: str
    message: str
    exits: tuple[int, ...]
    meanings: tuple[tuple[int, str], ...] = ()
    moved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def exit_table(self) -> str:
        """The table that ends the command's help."""
        meanings = MEANINGS | dict(self.meanings)
        rows = [f"  {code:<3} {meanings[code]}" for code in (*self.exits, 70)]
        return "\n".join(["\b", "Exit codes:", *rows])


@dataclass(frozen=True)
class CommandGroup:
    """Commands below one word."""

    message: str
    commands: dict[str, "CommandEntry"]


RUNS = (0, 2, 3, 4, 75)
REPLAYED = (
    (0, "equal: the steps are reproduced"),
    (1, "different: the first divergent step and quantity are named; or damaged"),
    (3, "refused: the steps cannot be executed here"),
    (4, "the steps could not be executed to their end: a worker failed"),
    (5, "nothing was compared: `equal` is null with --json"),
)

DATA = CommandGroup(
    message="Make, check and show datasets.",
    commands={
        "prepare": CommandEntry(
            module="llmrun.cli.data",
            function="prepare",
            message="Turn text into a dataset directory of token shards.",
            exits=(0, 2, 3),
            meanings=((3, "refused: the disk is full, or pyarrow or zstandard is needed and not installed"),),
        ),
        "check": CommandEntry(
            module="llmrun.cli.data",
            function="check",
            message="Check every shard of a dataset against its sha256.",
            exits=(0, 1, 2),
            meanings=((0, "sound"), (1, "damaged: the files are named")),
        ),
        "show": CommandEntry(
            module="llmrun.cli.data",
            function="show",
            message="Print what a dataset holds.",
            exits=(0, 2),
        ),
        "order": CommandEntry(
            module="llmrun.cli.data",
            function="order",
            message="Print the windows that steps of a run see, in order.",
            exits=(0, 2),
        ),
    },
)

CHECKPOINTS = CommandGroup(
    message="List, check and prune a run's checkpoints.",
    commands={
        "list": CommandEntry(
            module="llmrun.cli.checkpoints",
            function="list_",
            message="List a run's checkpoints: steps, sizes, val_ppl, whole or damaged.",
            exits=(0, 2),
        ),
        "check": CommandEntry(
            module="llmrun.cli.checkpoints",
            function="check",
            message="Check every byte of a run's checkpoints against SHA256SUMS, the manifest and the ledger.",
            exits=(0, 1, 2),
            meanings=((0, "sound"), (1, "damaged: the files are named")),
        ),
        "prune": CommandEntry(
            module="llmrun.cli.checkpoints",
            function="prune",
            message="Delete all checkpoints but the newest and the best, after the newest was read and found sound.",
            exits=(0, 1, 2, 3),
            meanings=((1, "damaged: nothing was deleted"), (3, "the run is under way: its owner is named")),
        ),
    },
)

RUNS_GROUP = CommandGroup(
    message="List and show runs, and how two differ.",
    commands={
        "list": CommandEntry(
            module="llmrun.cli.runs",
            function="list_",
            message="List all runs below a directory.",
            exits=(0, 2),
        ),
        "show": CommandEntry(
            module="llmrun.cli.runs",
            function="show",
            message="Show one run: what it came from and each of its segments.",
            exits=(0, 1, 2),
            meanings=((1, "damaged: run.json contradicts itself"),),
        ),
        "diff": CommandEntry(
            module="llmrun.cli.runs",
            function="diff",
            message="Show how two runs differ in config, data, code and environment, as they were last trained.",
            exits=(0, 1, 2),
            meanings=((1, "damaged: run.json contradicts itself"),),
        ),
    },
)

COMMANDS: dict[str, CommandEntry | CommandGroup] = {
    "plan": CommandEntry(
        module="llmrun.cli.plan",
        function="plan",
        message="Derive batch, FLOPs, memory, checkpoints, time and cost from a config.",
        exits=(0, 2),
    ),
    "train": CommandEntry(
        module="llmrun.cli.train",
        function="train",
        message="Start a run from a config, or continue it.",
        exits=RUNS,
    ),
    "resume": CommandEntry(
        module="llmrun.cli.resume",
        function="resume",
        message="Continue a run from its newest sound checkpoint.",
        exits=RUNS,
    ),
    "verify": CommandEntry(
        module="llmrun.cli.verify",
        function="verify",
        message="Prove two runs bitwise equal, or name the first difference.",
        exits=(0, 1, 2, 5),
        meanings=(
            (0, "equal"),
            (1, "different: the first divergent step and quantity are named; or damaged"),
            (5, "nothing was compared: `equal` is null with --json"),
        ),
        moved={
            "replay": ("--from", "--steps", "--D", "--windows", "--seed", "--data"),
            "bisect": ("--bisect",),
            "equivalence": (
                "--statistical",
                "--baseline",
                "--candidate",
                "--margin",
                "--alpha",
                "--power",
                "--plot",
            ),
        },
    ),
    "replay": CommandEntry(
        module="llmrun.cli.replay",
        function="replay",
        message="Execute steps of a run again and compare every record with its ledger.",
        exits=(0, 1, 2, 3, 4, 5),
        meanings=REPLAYED,
    ),
    "bisect": CommandEntry(
        module="llmrun.cli.bisect",
        function="bisect",
        message="Name the first module whose tensors differ in two executions of a step.",
        exits=(0, 1, 2, 3, 4, 5),
        meanings=REPLAYED,
    ),
    "check": CommandEntry(
        module="llmrun.cli.check",
        function="check",
        message="Execute a few steps of a config in several ways that must give the same bits, and name what breaks it.",
        exits=(0, 1, 2, 3, 4),
        meanings=(
            (0, "every property holds"),
            (1, "a property does not hold: the first module whose tensors differ is named"),
            (3, "refused: the steps cannot be executed here"),
            (4, "the steps could not be executed to their end: a worker failed"),
        ),
    ),
    "equivalence": CommandEntry(
        module="llmrun.cli.equivalence",
        function="equivalence",
        message="Compare two groups of runs, whose bits need not be equal, by their losses.",
        exits=(0, 1, 2, 3),
        meanings=(
            (0, "equivalent; or the number of runs was planned"),
            (1, "different, or not shown equivalent; or damaged"),
            (3, "refused: scipy or matplotlib is not installed"),
        ),
    ),
    "migrate": CommandEntry(
        module="llmrun.cli.migrate",
        function="migrate",
        message="Make a new run of a checkpoint, for a changed model.",
        exits=(0, 1, 2, 3),
        meanings=((1, "the checkpoint is damaged: the files are named"),),
    ),
    "sample": CommandEntry(
        module="llmrun.cli.sample",
        function="sample",
        message="Print text that a run's model writes.",
        exits=(0, 1, 2, 3),
        meanings=((1, "damaged: run.json contradicts itself"),),
    ),
    "data": DATA,
    "checkpoints": CHECKPOINTS,
    "runs": RUNS_GROUP,
}
