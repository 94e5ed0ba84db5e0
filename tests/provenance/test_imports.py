"""What a process executed is what is digested, whatever the ending of the file and whenever it was edited."""

import _statistics
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llmrun.launch.torchrun import child_command
from llmrun.provenance.code import source_digest

RECORDING = """
import json, sys
from llmrun.provenance.imports import ImportRecorder, UncoveredImportError
recorder = ImportRecorder.install()
{script}
print(json.dumps(recorder.source_files()))
"""


def sha256(content: bytes) -> str:
    """In hex."""
    return hashlib.sha256(content).hexdigest()


def recorded(directory: Path, script: str, *paths: Path) -> dict:
    """What a child records that runs a script, with further directories on PYTHONPATH."""
    (directory / "main_script.py").write_text(RECORDING.format(script=script))
    roots = os.pathsep.join(map(str, [directory, *paths]))
    done = subprocess.run(
        [*child_command("main_script")],
        env={**os.environ, "PYTHONPATH": roots},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_kind_of_file_is_recorded_and_what_is_installed_is_not(tmp_path):
    """A source, byte code without a source, an extension module under a library's name, an archive."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "own" / "net.py").write_text("WIDTH = 1\n")
    (tmp_path / "bare.py").write_text("WIDTH = 2\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", "bare.py"], cwd=tmp_path, check=True)
    (tmp_path / "bare.py").unlink()
    extension = Path(_statistics.__file__)
    shutil.copy(extension, tmp_path)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("packed.py", "WIDTH = 3\n")
    script = "import own.net, bare, packed, _statistics, yaml, csv"

    found = recorded(tmp_path, script, tmp_path / "archive.zip")

    assert {
        name: digest for name, digest in found.items() if not name.startswith(("llmrun/", "main_script"))
    } == {
        "own/__init__.py": source_digest(b""),
        "own/net.py": source_digest(b"WIDTH = 1\n"),
        "bare.pyc": sha256((tmp_path / "bare.pyc").read_bytes()),
        extension.name: sha256(extension.read_bytes()),
        "packed.py": sha256((tmp_path / "archive.zip").read_bytes()),
    }


def test_an_edit_of_equal_size_and_time_runs_and_is_recorded(tmp_path):
    """Byte code in `__pycache__` that looks current is not run for a module of the user's."""
    source = tmp_path / "net.py"
    source.write_text("WIDTH = 1\n")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "net.py"], cwd=tmp_path, check=True)
    times = source.stat()
    source.write_text("WIDTH = 2\n")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    stale = subprocess.run(
        [sys.executable, "-c", "import net; print(net.WIDTH)"], check=True, cwd=tmp_path, capture_output=True
    )

    found = recorded(tmp_path, "import net; assert net.WIDTH == 2, net.WIDTH")

    assert stale.stdout == b"1\n", "the test shows nothing: plain Python noticed the edit"
    assert found["net.py"] == source_digest(b"WIDTH = 2\n")


def test_what_was_executed_counts_and_not_what_lies_there_now(tmp_path):
    """A source that changes after its import keeps the digest of the code that runs."""
    (tmp_path / "net.py").write_text("WIDTH = 1\n")
    edit = f"import net; open({str(tmp_path / 'net.py')!r}, 'w').write('WIDTH = 2')"

    assert recorded(tmp_path, edit)["net.py"] == source_digest(b"WIDTH = 1\n")


def make_site(directory: Path, content: str) -> Path:
    """A directory with one installed distribution, whose RECORD states the sum of its module, and the module."""
    site = directory / "site-packages"
    (site / "tool-1.0.dist-info").mkdir(parents=True)
    stated = base64.urlsafe_b64encode(hashlib.sha256(b"WIDTH = 1\n").digest()).rstrip(b"=").decode()
    (site / "tool-1.0.dist-info" / "RECORD").write_text(f"tool.py,sha256={stated},10\n")
    (site / "tool.py").write_text(content)
    return site


@pytest.mark.parametrize(("content", "is_recorded"), [("WIDTH = 1\n", False), ("WIDTH = 9\n", True)])
def test_an_edited_file_of_an_installed_package_is_recorded(tmp_path, content, is_recorded):
    """`pip freeze` names its version either way."""
    found = recorded(tmp_path, "import tool", make_site(tmp_path, content))

    assert ("tool.py" in found) == is_recorded
    assert not is_recorded or found["tool.py"] == sha256(content.encode())


def test_code_that_is_not_covered_is_not_executed(tmp_path):
    """After `cover`: an unknown file, a changed file, an edited installed one; a covered one is imported."""
    for name in ("known", "changed", "unknown"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    covered = {"known.py": source_digest((tmp_path / "known.py").read_bytes()), "changed.py": "0" * 64}
    script = f"""
recorder.cover({covered!r})
refused = []
for name in ("known", "changed", "unknown", "tool"):
    try:
        __import__(name)
    except UncoveredImportError as error:
        refused.append(error.path.rpartition("/")[2])
assert refused == ["changed.py", "unknown.py", "tool.py"], refused
"""

    recorded(tmp_path, script, make_site(tmp_path, "WIDTH = 9\n"))

    assert [(tmp_path / name).exists() for name in ("known", "changed", "unknown")] == [True, False, False]


def test_a_pth_file_that_site_does_not_read_is_not_recorded(tmp_path):
    """Python runs `.pth` files of site directories alone: one that lies on PYTHONPATH changes nothing."""
    (tmp_path / "x.pth").write_text("import sys; sys.marked = 1\n")
    found = recorded(tmp_path, "import sys; assert not hasattr(sys, 'marked')")

    assert not [name for name in found if name.endswith(".pth")]
