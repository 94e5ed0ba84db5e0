"""Every wrong config, with the whole text of its error."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from llmrun.cli.console import render_error
from llmrun.config.load import load_config
from llmrun.errors import InputError

GOLDEN = Path(__file__).with_name("bad_configs.txt")
OPTION = "$ --set "


@dataclass(frozen=True)
class Case:
    title: str
    overrides: tuple[str, ...]
    config: str
    expected: str


def read_cases(text: str) -> list[Case]:
    cases = []
    for block in text.split("\n=== ")[1:]:
        title, _, rest = block.partition("\n")
        given, _, expected = rest.partition("~~~~")
        lines = given.splitlines(keepends=True)
        options = tuple(line.strip().removeprefix(OPTION) for line in lines if line.startswith(OPTION))
        config = "".join(line for line in lines if not line.startswith(OPTION))
        cases.append(Case(title, options, config, expected.strip()))
    return cases


CASES = read_cases(GOLDEN.read_text())


def error_of(case: Case, directory: Path, monkeypatch: pytest.MonkeyPatch) -> InputError:
    monkeypatch.chdir(directory)
    Path("bad.yaml").write_text(case.config)
    with pytest.raises(InputError) as caught:
        load_config(Path("bad.yaml"), case.overrides)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_config_says(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong config gives exactly the text that the golden file shows."""
    error = error_of(case, tmp_path, monkeypatch)

    assert render_error(error) == case.expected


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_bad_config_speaks_our_language(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word, address or type name of a library reaches the user, and the exit code is 2."""
    error = error_of(case, tmp_path, monkeypatch)
    text = render_error(error).lower()

    assert error.exit_code == 2
    assert [
        word for word in ("pydantic", "http", "validation", "input should", "traceback") if word in text
    ] == []


def test_there_are_enough_cases() -> None:
    """The golden file is read whole, and no case is there twice."""
    assert len({case.title for case in CASES}) == len(CASES) == GOLDEN.read_text().count("\n=== ")
    assert len(CASES) >= 60
