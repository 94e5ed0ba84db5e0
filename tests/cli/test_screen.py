"""Screens that cannot be written, under the real command."""

import os
import subprocess
import sys
import time

import pytest

from llmrun.cli.lost_output import PATIENCE_S, Screen

CONFIG = """
name: demo
T_tokens: 20Ki
model: {n_layers: 1, d_model: 32, n_heads: 2, vocab_size: 256}
batch: {GB_tok: 1Ki, μ_tok: 256, L_ctx: 64, D: 1, V: 4}
"""


@pytest.fixture
def shell(tmp_path):
    """Run a line of bash in which $LLMRUN is the command; returns its result."""
    (tmp_path / "demo.yaml").write_text(CONFIG)
    environment = {**os.environ, "LLMRUN": f"{sys.executable} -m llmrun"}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.mark.parametrize("command", ["plan demo.yaml", "--help", "train --help"])
def test_a_reader_that_exits_ends_a_printing_command_quietly(shell, command):
    """Exit 141 or 0, and nothing on stderr."""
    found = shell(f"$LLMRUN {command} | true")

    assert found.returncode in (0, 141)
    assert found.stderr == ""


@pytest.mark.parametrize("command", ["plan demo.yaml", "--help", "--version"])
def test_a_full_disk_is_one_short_error(shell, command):
    """Exit 2 and one line."""
    found = shell(f"$LLMRUN {command} >/dev/full")

    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "No space left on device" in found.stderr


def test_closed_descriptors(shell):
    """Closed stdout is an error like any other; closed stderr and stdin change nothing."""
    assert shell("$LLMRUN plan demo.yaml >&-").returncode == 2
    assert shell("$LLMRUN plan demo.yaml >&- 2>&-").returncode == 2
    found = shell("$LLMRUN plan demo.yaml 2>&- 0<&-")

    assert found.returncode == 0
    assert "GB_tok" in found.stdout


def test_an_error_that_cannot_be_printed_keeps_its_exit_code(shell):
    """2 is 2 with stderr on a full disk, closed, or broken."""
    for stderr in ("2>/dev/full", "2>&-", "2> >(true)"):
        assert shell(f"$LLMRUN plan missing.yaml {stderr}").returncode == 2


def test_a_paused_screen_is_skipped_while_a_run_is_under_way():
    """A full pipe that nobody reads costs one moment, not one per line; what comes after is printed again."""
    reader, writer = os.pipe()
    screen = Screen(writer, "stderr", raises=False, lost=None)
    with screen.unattended():
        begun_s = time.monotonic()
        for _ in range(40):
            screen.write(b"x" * 4096)
        assert PATIENCE_S <= time.monotonic() - begun_s < 5 * PATIENCE_S
        assert 0 < screen.skipped_bytes < 40 * 4096
        os.read(reader, 1 << 20)
        screen.write(b"again")
        assert os.read(reader, 65536) == b"again"
    assert screen.lost is None
    screen.close()
    os.close(reader)
    os.close(writer)
