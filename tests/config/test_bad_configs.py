"""Every wrong config, with the kind, keys, places, hints and facts of its error."""

from pathlib import Path

import pytest

from error_cases import (
    Case,
    assert_carries,
    assert_readable,
    is_writing,
    lines_of_error,
    read_cases,
    write_expectation,
)
from llmrun.cli.console import render_error
from llmrun.config.load import load_config
from llmrun.errors import InputError

FILE = Path(__file__).with_name("bad_configs.txt")
OPTION = "$ --set "
CASES = read_cases(FILE)


def error_of(case: Case, directory: Path, monkeypatch: pytest.MonkeyPatch) -> InputError:
    """The error that loading a case's config raises."""
    lines = case.given.splitlines(keepends=True)
    options = [line.strip().removeprefix(OPTION) for line in lines if line.startswith(OPTION)]
    monkeypatch.chdir(directory)
    Path("bad.yaml").write_text("".join(line for line in lines if not line.startswith(OPTION)))
    with pytest.raises(InputError) as caught:
        load_config(Path("bad.yaml"), options)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_config(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong config gives the error that its case states: keys, places, hints, the user's own numbers."""
    error = error_of(case, tmp_path, monkeypatch)
    lines = [f"exit {error.exit_code}", *lines_of_error(error.as_json(), case.given)]
    if is_writing():
        write_expectation(FILE, case.title, lines=lines, screen=render_error(error) if case.screen else None)
        return

    assert_carries(lines, case.expected)
    assert_readable(render_error(error))


@pytest.mark.parametrize("case", [case for case in CASES if case.screen], ids=lambda case: case.title)
def test_screen(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One problem, and several, as they are shown."""
    assert render_error(error_of(case, tmp_path, monkeypatch)) == case.screen


def test_cases() -> None:
    """Every case has another title and is an error of the user; all are read."""
    assert len({case.title for case in CASES}) == len(CASES) == FILE.read_text().count("\n=== ") >= 60
    assert {case.expected[0] for case in CASES} == {"exit 2"}
