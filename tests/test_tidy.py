"""The shape of the code: sizes, the direction of imports, nothing dead.  Each message says what to do instead."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

FLOORS = (
    ("__main__", "cli"),
    ("verify", "migrate", "sample", "check"),
    ("launch",),
    ("runtime",),
    ("plan", "run", "storage", "data", "provenance"),
    ("config",),
    ("core",),
    ("errors", "text", "machine", "cgroups"),
)
"""Imports point down: a room may import itself, its neighbours (never in a circle) and the floors below it."""

CORE_MAY_IMPORT = ("core", "errors", "text")
"""What decides bits imports nothing else of llmrun, so the fingerprint's code part is complete."""

TORCH_ROOMS = ("core", "runtime", "sample")
TORCH_MODULES = {
    "llmrun.migrate.numerics": "initial values, digests and random states as training makes them",
    "llmrun.launch.agent": "is torchrun itself, in a process of its own",
}
"""Where torch may be imported.  Everything else must load without it."""

ENTRY_POINTS = (
    "llmrun.__main__",
    "llmrun.cli.app",
    "worker",
    "probe",
    "agent",
    "reference",
    "gpus",
    "boot",
    "config_reference",
    "command_reference",
)
"""Modules that are run by name: `python -m …`."""

VAGUE = ("utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def said(problems: list[str]) -> str:
    return "\n" + "\n".join(sorted(problems))


def length(node: Definition) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_are_small(sources) -> None:
    """No file is longer than 600 lines."""
    problems = [
        f"{source.path}: {source.lines} lines, {FILE_LINES_MAX} at most: split it by concept"
        for source in sources
        if source.lines > FILE_LINES_MAX
    ]

    assert not problems, said(problems)


def test_functions_are_short(sources) -> None:
    """No function is longer than 70 lines."""
    functions = [
        (source, node) for source in sources for node in ast.walk(source.tree) if isinstance(node, FUNCTIONS)
    ]
    problems = [
        f"{source.path}:{node.lineno}: {node.name} has {length(node)} lines, {FUNCTION_LINES_MAX} at most: "
        "keep the branches, move the leaves into pure functions"
        for source, node in functions
        if length(node) > FUNCTION_LINES_MAX
    ]

    assert not problems, said(problems)


def test_names_say_what_is_inside(sources) -> None:
    """No file is called utils, helpers, common or misc."""
    problems = [
        f"{source.path}: name it after the one thing that it holds"
        for source in sources
        for part in source.module.removeprefix("tools.").split(".")
        if part.strip("_") in VAGUE
    ]

    assert not problems, said(problems)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a file, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_modules(source, modules) -> set[str]:
    """The modules of llmrun that a file imports, early or late."""
    names = {name for _, name in imports(source.tree) if name.split(".")[0] == "llmrun"}
    return {name if name in modules else name.rpartition(".")[0] for name in names} & modules


def circles(graph: dict[str, set[str]]) -> list[str]:
    """One line for each node that reaches itself."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    return [node for node in graph if node in reached(node)]


def test_floors_list_what_exists(llmrun_sources) -> None:
    """The floors name every room of llmrun, and nothing else."""
    listed = {name for names in FLOORS for name in names}
    exist = {source.row for source in llmrun_sources if source.row}

    assert listed == exist


def test_imports_point_down(llmrun_sources) -> None:
    """No room imports one above it."""
    height = {name: index for index, names in enumerate(FLOORS) for name in names}
    problems = [
        f"{source.path}:{line}: {source.row} may not import {name}: "
        "pass what you need in as an argument, or move it down"
        for source in llmrun_sources
        if source.row
        for line, name in imports(source.tree)
        if name.startswith("llmrun.") and height.get(name.split(".")[1], 99) < height[source.row]
    ]

    assert not problems, said(problems)


def test_no_import_circles(llmrun_sources) -> None:
    """Neither modules nor rooms import each other in a circle; imports inside functions count."""
    modules = {source.module for source in llmrun_sources}
    graph = {source.module: imported_modules(source, modules) - {source.module} for source in llmrun_sources}
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, others in graph.items():
        room = module.split(".")[1] if "." in module else ""
        rooms[room] |= {other.split(".")[1] for other in others if "." in other} - {room}

    assert circles(graph) == []
    assert circles(rooms) == []


def test_core_is_closed(llmrun_sources) -> None:
    """What decides bits imports only itself and the error tree: the boundary that the fingerprint covers."""
    problems = [
        f"{source.path}:{line}: core may not import {name}"
        for source in llmrun_sources
        if source.row == "core"
        for line, name in imports(source.tree)
        if name.startswith("llmrun.") and name.split(".")[1] not in CORE_MAY_IMPORT
    ]

    assert not problems, said(problems)


def has_torch(source) -> bool:
    return source.row in TORCH_ROOMS or source.module in TORCH_MODULES


def test_torch_is_imported_only_where_tensors_are(llmrun_sources) -> None:
    """Torch is imported, early or late, only by the packages and modules listed above."""
    problems = [
        f"{source.path}:{line}: take numpy arrays or plain numbers, or do this in core/ or runtime/"
        for source in llmrun_sources
        if not has_torch(source)
        for line, name in imports(source.tree)
        if name.split(".")[0] == "torch" or name.startswith("safetensors.torch")
    ]

    assert not problems, said(problems)


def test_torch_free_modules_load_without_torch(llmrun_sources) -> None:
    """Importing every torch-free module, and the command line, does not import torch by any detour."""
    modules = [
        source.module for source in llmrun_sources if not has_torch(source) and source.row != "__main__"
    ]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'importing {name} imports torch: import it inside the function'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *modules], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_command_line_loads_little() -> None:
    """`llmrun --help` loads no package that takes long and that only some commands need."""
    slow = "{'torch', 'numpy', 'git', 'tensorboard', 'tokenizers', 'safetensors'}"
    script = f"import sys, llmrun.cli.app; print(sorted({slow} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout == "[]\n", "import these inside the function that needs them"


def strings(tree: ast.Module) -> Iterator[str]:
    return (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_no_dead_module(llmrun_sources) -> None:
    """Every module is imported or named by another one, or is an entry point."""
    used: dict[str, set[str]] = defaultdict(set)
    for source in llmrun_sources:
        for name in (*(name for _, name in imports(source.tree)), *strings(source.tree)):
            used[name].add(source.module)
            used[name.rpartition(".")[0]].add(source.module)
    problems = [
        f"{source.path}: no module of llmrun imports it: delete it, or use it"
        for source in llmrun_sources
        if not source.path.endswith("__init__.py")
        and source.module not in ENTRY_POINTS
        and source.module.split(".")[-1] not in ENTRY_POINTS
        and not used[source.module] - {source.module}
    ]

    assert not problems, said(problems)


def test_tests_say_what_they_prove(sources) -> None:
    """Every test has a docstring."""
    problems = [
        f"{source.path}:{node.lineno}: say in one sentence what {node.name} proves"
        for source in sources
        if source.path.startswith("tests/")
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS) and node.name.startswith("test_") and ast.get_docstring(node) is None
    ]

    assert not problems, said(problems)
