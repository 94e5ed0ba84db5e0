"""The code part of the fingerprint covers `llmrun/core/`: edits elsewhere never change it, edits there always do."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmrun
from llmrun.provenance.code import code_preimage, is_numeric, numeric_files

PACKAGE = Path(llmrun.__file__).parent
MOVED = ("llmrun.provenance.mapped_libraries", "llmrun.launch.loaded_libraries")
"""A module outside `core` that the probe loads, and the name that it gets in a copy."""

PROBE = """
import json, os
from llmrun.launch.torchrun import TorchrunBackend, worker_environment
from llmrun.provenance.code import code_preimage
probe = TorchrunBackend().probe("cpu", worker_environment(os.environ, 1, 1), lambda: None)
print(json.dumps([code_preimage(probe.source_files), probe.environment]))
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package."""
    copy = tmp_path / "llmrun"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def outside_core(package: Path) -> list[Path]:
    """The sources outside `core`."""
    return [path for path in sorted(package.rglob("*.py")) if package / "core" not in path.parents]


def in_core(package: Path) -> list[Path]:
    """The sources in `core`."""
    return sorted((package / "core").rglob("*.py"))


def reformat(path: Path) -> None:
    """Write a source again from its syntax tree: other line breaks and quotes, and no comments."""
    path.write_text(ast.unparse(ast.parse(path.read_text())) + "\n")


def rewrite_comments(path: Path) -> None:
    """Give a source another docstring and comments; a docstring is also where there was none."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            has = ast.get_docstring(node) is not None
            node.body[: 1 if has else 0] = [ast.Expr(ast.Constant("Another docstring."))]
    path.write_text("# A comment.\n" + ast.unparse(ast.fix_missing_locations(tree)) + "  # at the end\n")


def change_constant(package: Path) -> str:
    """Change one constant in `core`.  Returns the import path of the file."""
    path = package / "core" / "order.py"
    path.write_text(path.read_text().replace("ROUNDS = 6", "ROUNDS = 8"))
    return "llmrun/core/order.py"


def move_and_reformat(package: Path) -> None:
    """Move one module outside `core` to another room under another name, and reformat all of them."""
    old, new = MOVED
    for path in outside_core(package):
        reformat(path)
        path.write_text(path.read_text().replace(old, new))
    (package / "provenance" / "mapped_libraries.py").rename(package / "launch" / "loaded_libraries.py")


def test_the_copy_has_the_same_digests(package) -> None:
    """The directory of the package does not count, and every source of `core` does."""
    assert numeric_files(package) == numeric_files()
    assert len(numeric_files()) == len(in_core(PACKAGE)) > 20


def test_files_outside_core_do_not_count(package) -> None:
    """Outside `core` every file is moved, renamed and reformatted: the digests stay."""
    for number, path in enumerate(outside_core(package)):
        reformat(path)
        path.rename(path.with_name(f"moved_{number}.py"))

    assert numeric_files(package) == numeric_files()
    assert not any(is_numeric(f"llmrun/{path.relative_to(package)}") for path in outside_core(package))


def test_comments_and_docstrings_in_core_do_not_count(package) -> None:
    """Every source of `core` gets other comments, docstrings and formatting: the digests stay."""
    for path in in_core(package):
        before = path.read_text()
        rewrite_comments(path)
        assert path.read_text() != before

    assert numeric_files(package) == numeric_files()


def test_a_constant_in_core_counts(package) -> None:
    """One changed constant changes the digest of its file, and no other."""
    changed = change_constant(package)
    before, after = numeric_files(), numeric_files(package)

    assert [name for name in before if before[name] != after[name]] == [changed]
    assert code_preimage(after) != code_preimage(before)


def probed(root: Path) -> tuple[dict[str, str], dict[str, object]]:
    """The parts `code` and `environment` as the real probe of the package below `root` computes them."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, environment = json.loads(done.stdout.splitlines()[-1])
    return code, environment


@pytest.mark.slow
def test_the_probe_of_an_edited_package(package) -> None:
    """Moves and reformatting outside `core`, and comments inside, leave both parts; a constant changes the code."""
    original = probed(PACKAGE.parent)
    move_and_reformat(package)
    for path in in_core(package):
        rewrite_comments(path)
    edited = probed(package.parent)
    changed = change_constant_of_reformatted(package)
    other, _ = probed(package.parent)

    assert edited == original
    assert [name for name in other if other[name] != original[0][name]] == [changed]


def change_constant_of_reformatted(package: Path) -> str:
    """`change_constant` in a package whose sources were written again."""
    before = (package / "core" / "order.py").read_text()
    changed = change_constant(package)
    assert (package / "core" / "order.py").read_text() != before
    return changed
