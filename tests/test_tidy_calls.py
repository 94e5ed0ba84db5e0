"""Calls that have one place or none.  Each message names the replacement."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

NUMERIC = ("llmrun/core/", "llmrun/runtime/")
DURABLE = {"llmrun/storage/durable.py": "the place that fsyncs and renames"}


@dataclass(frozen=True)
class Rule:
    """Calls and imports that are banned.

    names:   full dotted names; a trailing dot bans all below it but `but`.
    methods: method names, whatever the object.
    within:  the paths where the rule holds.
    allowed: path, or directory ending in a slash -> the reason.
    """

    instead: str
    names: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    within: tuple[str, ...] = ("llmrun/",)
    allowed: dict[str, str] = field(default_factory=dict)

    def holds_in(self, path: str) -> bool:
        """Whether the rule holds in a file."""
        return path.startswith(self.within) and not path.startswith(tuple(self.allowed))

    def bans(self, name: str) -> bool:
        """Whether a full dotted name is banned."""
        return name not in self.but and any(
            name == banned or (banned.endswith(".") and name.startswith(banned)) for banned in self.names
        )


RULES = (
    Rule(
        names=("print", "sys.stdout.write", "sys.stderr.write"),
        instead="return the text; the command prints it through llmrun.cli.console",
        allowed={"llmrun/cli/": "commands print", "llmrun/launch/agent.py": "its stderr is torchrun's log"},
    ),
    Rule(
        names=("os.rename", "os.renames", "os.replace", "shutil.move"),
        methods=("rename",),
        instead="use llmrun.storage.durable.replace_file or commit_directory",
        allowed=DURABLE,
    ),
    Rule(
        names=("os.fsync", "os.fdatasync", "os.sync"),
        instead="use llmrun.storage.durable.write_new, replace_file, or Disk.fsync",
        allowed=DURABLE,
    ),
    Rule(
        names=("numpy.save", "numpy.savez", "safetensors.numpy.save_file", "safetensors.torch.save_file"),
        methods=("write_text", "write_bytes", "tofile"),
        instead="use llmrun.storage.durable.write_new or replace_file: whole or absent",
        allowed=DURABLE,
    ),
    Rule(
        names=("pickle.", "cPickle.", "marshal.", "shelve.", "dill.", "cloudpickle.", "numpy.load"),
        instead="use JSON or safetensors: a file from a stranger must not run code",
    ),
    Rule(
        names=("torch.save", "torch.load", "torch.distributed.checkpoint."),
        instead="use llmrun.storage.checkpoint: safetensors and JSON only",
    ),
    Rule(
        names=("random.", "numpy.random."),
        but=(
            "random.seed",
            "random.getstate",
            "random.setstate",
            "numpy.random.seed",
            "numpy.random.get_state",
            "numpy.random.set_state",
        ),
        instead="draw from a stream of llmrun.core.streams: a function of seed and logical numbers",
        within=NUMERIC,
    ),
    Rule(
        names=("time.time", "time.time_ns", "datetime.datetime.now", "datetime.datetime.utcnow"),
        instead="time may not reach numerics: take time.monotonic for intervals, or have it passed in",
        within=NUMERIC,
    ),
)

APPENDING = {
    "llmrun/storage/durable.py": "the place that writes",
    "llmrun/storage/metrics/jsonl.py": "metrics and events only grow; a torn end is cut back on resume",
    "llmrun/run/lock.py": "a lock is held open, and its probe of the disk's clock is empty",
    "llmrun/launch/torchrun.py": "torchrun's log only grows, and nothing is read back from it but words",
    "llmrun/data/shard_reader.py": "memory that the ranks of a host share; no file",
    "llmrun/runtime/worker.py": "a rank's log, which is its stdout and stderr",
    "llmrun/cli/lost_output.py": "os.devnull",
}
"""Files that may open a file for writing, with the reason."""

BROAD_EXCEPT = {
    "llmrun/launch/agent.py": "a fork's end: it must not return into its parent's code",
    "llmrun/launch/boot.py": "a probe's entry: whatever ends it is named to the launcher, and raised again",
    "llmrun/core/model/foreign.py": "a user's model may raise anything; the error shows its lines",
    "llmrun/core/model/arguments.py": "annotations are a user's code",
    "llmrun/cli/app.py": "the command line's entry: a bug becomes exit 70",
    "llmrun/runtime/worker.py": "the worker's entry: a bug reaches the launcher",
    "llmrun/launch/watch.py": "a display that fails must not end the run that it shows",
    "llmrun/runtime/inspection.py": "a user's model may raise anything; the finding names its line",
    "llmrun/migrate/script.py": "a user's script may raise anything; the error names its line",
    "llmrun/provenance/background.py": "a thread's end: what stops reading a repository must not stop training",
    "llmrun/launch/forecasting.py": "a run does not need its forecast, and must not end by it",
    "llmrun/storage/metrics/sink.py": "a sink may fail in any way; it is dropped with one warning",
    "llmrun/data/tokenizers.py": "`tokenizers` raises plain Exception; it becomes a ValueError",
}
"""Where a process ends, and one package that leaves no choice."""


def aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name, of everything imported in a file."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of every dotted name that starts at an import or a builtin."""
    known = aliases(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            root, dot, rest = ast.unparse(node).partition(".")
            if root.isidentifier():
                yield node.lineno, known.get(root, root) + dot + rest


def methods(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every method call; `x.replace(y)` with one argument, a path's, counts as `rename`.

    Those of a Disk are left out: it is durable.py's own, passed around so that a test can make it fail.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if ast.unparse(node.func.value).split(".")[-1].strip("_").lower() == "disk":
            continue
        of_path = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
        yield node.lineno, "rename" if of_path else node.func.attr


def breaches(path: str, tree: ast.Module) -> list[str]:
    """Every banned use in one file, with its replacement."""
    rules = [rule for rule in RULES if rule.holds_in(path)]
    if not rules:
        return []
    names, calls = list(uses(tree)), list(methods(tree))
    found = {(line, name, rule.instead) for rule in rules for line, name in names if rule.bans(name)}
    found |= {
        (line, f".{name}", rule.instead) for rule in rules for line, name in calls if name in rule.methods
    }
    return [f"{path}:{line}: {name}: {instead}" for line, name, instead in found]


def opens_for_writing(node: ast.AST) -> bool:
    """Whether a call is open(…, "w") or path.open("a") or os.open with O_WRONLY, in any spelling."""
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).split(".")[-1].endswith("open"):
        return False
    modes = [argument for argument in node.args if isinstance(argument, ast.Constant)]
    modes += [
        word.value for word in node.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)
    ]
    texts = [mode.value for mode in modes if isinstance(mode.value, str) and len(mode.value) <= 4]
    flags = ast.unparse(node)
    return any(set(text) & set("wax+") for text in texts) or "O_WRONLY" in flags or "O_RDWR" in flags


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches everything and does not raise it again."""
    caught = "" if handler.type is None else ast.unparse(handler.type)
    raises = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return not raises and (
        handler.type is None or "Exception" in caught.strip("()").replace("Base", "").split(", ")
    )


def broad_handlers(tree: ast.Module) -> Iterator[int]:
    """Lines of `except:`, `except Exception` and `suppress(Exception)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = is_broad(node)
        else:
            broad = isinstance(node, ast.Call) and ast.unparse(node).endswith(
                ("suppress(Exception)", "(BaseException)")
            )
        if broad:
            yield node.lineno


def test_banned_calls(sources) -> None:
    """No file uses a call that belongs elsewhere."""
    problems = [problem for source in sources for problem in breaches(source.path, source.tree)]

    assert not problems, "\n" + "\n".join(sorted(problems))


def test_files_are_opened_for_writing_in_few_places(llmrun_sources) -> None:
    """Only durable.py and the named append-only files open a file for writing."""
    problems = [
        f"{source.path}:{node.lineno}: use llmrun.storage.durable.write_new or replace_file: whole or absent"
        for source in llmrun_sources
        if source.path not in APPENDING
        for node in ast.walk(source.tree)
        if opens_for_writing(node)
    ]

    assert not problems, "\n" + "\n".join(sorted(problems))


def test_broad_except_only_at_the_boundaries(llmrun_sources) -> None:
    """Everything is caught only where a process or a thread ends."""
    problems = [
        f"{source.path}:{line}: catch the errors that you expect; a bug must reach the entry (exit 70)"
        for source in llmrun_sources
        if source.path not in BROAD_EXCEPT
        for line in broad_handlers(source.tree)
    ]

    assert not problems, "\n" + "\n".join(sorted(problems))


def test_allow_lists_name_files_that_exist(llmrun_sources) -> None:
    """An exception that nobody needs is taken out."""
    paths = {source.path for source in llmrun_sources}
    listed = {
        *APPENDING,
        *BROAD_EXCEPT,
        *(path for rule in RULES for path in rule.allowed if not path.endswith("/")),
    }

    assert listed - paths == set()


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "import os\nos.rename(a, b)",
        "from os import replace as r\nr(a, b)",
        "path.rename(other)",
        "path.replace(other)",
        "import os as o\no.fsync(1)",
        "path.write_text('x')",
        "import pickle\npickle.loads(b)",
        "from pickle import loads\nloads(b)",
        "import torch\ntorch.save(x, f)",
        "from torch import load\nload(f)",
        "import random\nrandom.shuffle(x)",
        "import numpy as np\nnp.random.default_rng(0)",
        "import time\ntime.time()",
        "from time import time\ntime()",
        "from datetime import datetime\ndatetime.now()",
        "f(default=print)",
    ],
)
def test_banned_calls_are_found(code: str) -> None:
    """Each banned call is found under any name."""
    assert breaches("llmrun/runtime/loop.py", ast.parse(code)) != []


@pytest.mark.parametrize(
    "code",
    [
        "text.replace('a', 'b')",
        "import dataclasses\ndataclasses.replace(x, a=1)",
        "import random\nrandom.seed(1)",
        "import time\ntime.perf_counter()",
        "self.print(1)",
        "self._disk.rename(a, b)",
        "table.random(3)",
    ],
)
def test_other_calls_are_not_found(code: str) -> None:
    """What only looks like a banned call is let be."""
    assert breaches("llmrun/runtime/loop.py", ast.parse(code)) == []


@pytest.mark.parametrize(
    ("code", "writes"),
    [
        ("open(p, 'w')", True),
        ("p.open('ab')", True),
        ("p.open(mode='r+b')", True),
        ("os.open(p, os.O_WRONLY | os.O_CREAT)", True),
        ("gzip.open(p, 'wt')", True),
        ("p.open('rb')", False),
        ("p.open()", False),
        ("os.open(p, os.O_RDONLY)", False),
    ],
)
def test_opening_for_writing_is_found(code: str, *, writes: bool) -> None:
    """Any spelling of opening a file for writing is found."""
    assert any(opens_for_writing(node) for node in ast.walk(ast.parse(code))) is writes


@pytest.mark.parametrize(
    ("code", "broad"),
    [
        ("try: f()\nexcept: pass", True),
        ("try: f()\nexcept Exception: pass", True),
        ("try: f()\nexcept (OSError, BaseException): pass", True),
        ("with suppress(Exception): f()", True),
        ("try: f()\nexcept OSError: pass", False),
        ("try: f()\nexcept BaseException:\n    g()\n    raise", False),
    ],
)
def test_broad_handlers_are_found(code: str, *, broad: bool) -> None:
    """A handler that swallows everything is found; one that cleans up and raises is let be."""
    assert (list(broad_handlers(ast.parse(code))) != []) is broad
