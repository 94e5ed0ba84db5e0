"""Counts what the layout of a checkout is like: `python tools/measure_structure.py [ROOT]`, JSON on standard output.

Only the package `llmrun` below ROOT (default: the current directory) is counted, by parsing; nothing is imported.
"""

import ast
import json
import statistics
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

LONG_FUNCTION_LINES = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the package: dotted name to file."""
    files = sorted((root / "llmrun").rglob("*.py"))
    names = {path: path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in files}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports_of(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports, early or late."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in modules else node.module)
    return found & modules.keys()


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that `start` imports, directly or not."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def longest_chain(graph: dict[str, set[str]], start: str) -> int:
    """Modules on the longest chain of imports from `start`; circles are cut."""
    sys.setrecursionlimit(10_000)
    under_way: set[str] = set()

    @cache
    def depth(name: str) -> int:
        under_way.add(name)
        found = 1 + max((depth(other) for other in graph[name] if other not in under_way), default=0)
        under_way.discard(name)
        return found

    return depth(start)


def prose_lines(tree: ast.Module) -> int:
    """Lines of docstrings, attribute docstrings included."""
    return sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def measure(root: Path) -> dict[str, object]:
    """All figures of one checkout."""
    modules = modules_of(root)
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = {name: text.count("\n") for name, text in texts.items()}
    graph = {name: imports_of(tree, modules) - {name} for name, tree in trees.items()}
    importers = Counter(other for others in graph.values() for other in others)
    files = [name for name, path in modules.items() if path.name != "__init__.py"]
    functions = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    ]
    classes: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(name)
    leaves = Counter(name.rpartition(".")[2] for name in files)
    return {
        "files": len(files),
        "lines": sum(lines.values()),
        "median_file_lines": statistics.median(lines[name] for name in files),
        "functions": len(functions),
        "median_function_lines": statistics.median(functions),
        f"functions_over_{LONG_FUNCTION_LINES}_lines": sum(n > LONG_FUNCTION_LINES for n in functions),
        "modules_with_at_most_one_importer": sum(importers[name] <= 1 for name in files),
        "class_names_used_twice": sorted(name for name, where in classes.items() if len(where) > 1),
        "file_names_used_more_than_twice": {name: n for name, n in sorted(leaves.items()) if n > 2},
        "modules_in_a_circle": sorted(name for name in graph if name in reached(graph, name)),
        "longest_import_chain_from_cli_train": longest_chain(graph, "llmrun.cli.train"),
        "modules_imported_by_cli_train": len(reached(graph, "llmrun.cli.train")),
        "docstring_share": round(sum(map(prose_lines, trees.values())) / sum(lines.values()), 3),
    }


if __name__ == "__main__":
    json.dump(measure(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), sys.stdout, indent=2)
    sys.stdout.write("\n")
