"""The surroundings of a child process: working directory, PYTHONPATH, `site`, another llmrun."""

import os
import subprocess

import pytest

import llmrun
from llmrun.errors import RefusedError
from llmrun.launch.torchrun import BOOT, TorchrunBackend, child_command, worker_environment

HERE = "import json, random, profile, llmrun; print(json.dumps([random.__file__, profile.__file__, llmrun.__file__]))"


def test_the_working_directory_is_no_import_root(tmp_path):
    """Neither `random.py` nor another llmrun there is imported, also where PYTHONPATH has an empty entry."""
    (tmp_path / "llmrun").mkdir()
    for name in ("random.py", "profile.py", "llmrun/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the working directory')\n")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "looking.py").write_text(HERE)
    environment = worker_environment({**os.environ, "PYTHONPATH": f":{tmp_path / 'roots'}:"}, 1)
    done = subprocess.run(
        child_command("looking"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stdout
    assert llmrun.__file__ in done.stdout


def test_another_llmrun_that_was_loaded_first_is_named(tmp_path):
    """A `sitecustomize` that brings its own llmrun ends the child with exit 1."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "llmrun.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('llmrun', {str(tmp_path / 'other' / 'llmrun.py')!r})\n"
        "sys.modules['llmrun'] = importlib.util.module_from_spec(spec)\n"
    )
    done = subprocess.run(
        child_command("this"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert str(tmp_path / "other" / "llmrun.py") in done.stderr
    assert str(BOOT.parent.parent) in done.stderr


@pytest.mark.parametrize(
    "ending", ["raise ValueError('no')", "import os; os._exit(0)", "raise SystemExit(0)"]
)
def test_a_file_that_ends_the_probe_is_named(tmp_path, ending):
    """A shadowing module that raises, exits or leaves at once: exit 3, and its path, whatever it prints."""
    (tmp_path / "random.py").write_text(f"print('{{}}')\n{ending}\n")
    environment = worker_environment({**os.environ, "PYTHONPATH": str(tmp_path)}, 1)

    with pytest.raises(RefusedError) as caught:
        TorchrunBackend().probe("cpu", environment, lambda: None)

    assert caught.value.exit_code == 3
    assert str(tmp_path / "random.py") in f"{caught.value.where} {caught.value.caused_by}"
