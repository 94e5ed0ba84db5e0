import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import RunFailedError
from llmrun.storage.durable import Disk
from llmrun.storage.metrics.jsonl import AppendedFile, JsonLines, cut_back, number, rows, spell

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@given(st.dictionaries(st.text(), values))
def test_rows_are_strict_json(row: dict[str, object]) -> None:
    """Any row becomes JSON without NaN or Infinity literals."""
    text = json.dumps(spell(row), allow_nan=False)

    assert json.loads(text, parse_constant=refuse_constant) == spell(row)


@given(st.floats())
def test_number_brings_every_float_back(value: float) -> None:
    """Any float survives the way through a row, also NaN and the infinities."""
    back = number(json.loads(json.dumps(spell(value))))

    assert back is not None
    assert back.hex() == value.hex() or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize("value", [None, True, "1.5", "nan", [1.0]])
def test_number_of_something_else(value: object) -> None:
    """What is not a number of a row has none."""
    assert number(value) is None


def test_row_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    """A process killed right after a write loses no row."""
    path = tmp_path / "metrics.jsonl"
    script = (
        "import os, signal, sys; from pathlib import Path; from llmrun.storage.metrics.jsonl import JsonLines\n"
        "lines = JsonLines(Path(sys.argv[1])); lines.open(0)\n"
        "lines.write({'step': 1, 'loss': float('nan')}); lines.write({'step': 2, 'loss': 0.1})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)

    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == '{"step": 1, "loss": "NaN"}\n{"step": 2, "loss": 0.1}\n'


def test_reopened_file_goes_on(tmp_path: Path) -> None:
    """A second segment appends to what the first wrote."""
    for step in (1, 2):
        lines = JsonLines(tmp_path / "metrics.jsonl")
        lines.open(step - 1)
        lines.write({"step": step})
        lines.close()

    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2]


def test_cut_back_drops_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    """Rows above the step, a torn last line and what is not a row go; the others keep every byte."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "x": "\xc3\xa9"}\n\0\0\0\n{"step": 2}\n[2]\n{"step": 3}\n{"step": 2')

    assert cut_back(path, 2) == 4
    assert path.read_bytes() == b'{"step": 1, "x": "\xc3\xa9"}\n{"step": 2}\n'


@given(st.integers(0, 12), st.integers(0, 12), st.binary(max_size=12))
def test_cut_back_at_any_step(tmp_path_factory, n_rows: int, step: int, torn: bytes) -> None:
    """Any step, any torn end: exactly the rows up to the step stay, and cutting again changes nothing."""
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    whole = [json.dumps({"step": n}).encode() + b"\n" for n in range(1, n_rows + 1)]
    path.write_bytes(b"".join(whole) + torn.replace(b"\n", b""))
    cut_back(path, step)

    assert path.read_bytes() == b"".join(whole[:step])
    assert cut_back(path, step) == 0


def test_cut_back_without_a_file(tmp_path: Path) -> None:
    """A run that was killed before its first row has no file yet."""
    assert cut_back(tmp_path / "metrics.jsonl", 5) == 0
    assert list(rows(tmp_path / "metrics.jsonl")) == []


def test_cut_back_is_all_or_nothing(tmp_path: Path) -> None:
    """A disk that fails on the way leaves the old file whole."""

    class Failing(Disk):
        def fsync(self, descriptor: int) -> None:
            assert descriptor > 2
            raise OSError(5, "Input/output error")

    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    with pytest.raises(RunFailedError, match=r"metrics\.jsonl: Input/output error"):
        cut_back(path, 1, disk=Failing())

    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_an_error_that_can_be_resumed() -> None:
    """Content that does not fit waits; a sync raises an error with exit code 4 that names the file."""
    file = AppendedFile(Path("/dev/full"))
    file.write(b"row")
    with pytest.raises(RunFailedError, match="full: No space left on device") as caught:
        file.sync()

    assert caught.value.exit_code == 4
    assert str(caught.value.where) == "/dev/full"
