"""docs/cli.md is what the commands declare."""

from pathlib import Path

import pytest

from llmrun.cli.app import run
from llmrun.cli.command_reference import commands, main, parameters, reference_markdown
from llmrun.cli.registry import MEANINGS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_fresh(tmp_path: Path) -> None:
    """docs/cli.md is what the registry and the commands give; else: make docs."""
    main(tmp_path)

    assert PAGE.read_text(encoding="utf-8") == (tmp_path / "cli.md").read_text(encoding="utf-8")


def test_every_command_and_every_exit_code_has_a_place() -> None:
    """Each command has a section, each exit code a row."""
    page = reference_markdown()

    assert [f"\n## llmrun {words}\n" in page for words, _ in commands()] == [True] * len(list(commands()))
    assert all(f"| {code} | {message} |" in page for code, message in MEANINGS.items())


@pytest.mark.parametrize("words", [words for words, _ in commands()])
def test_the_page_names_what_the_help_names(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option in a command's own help stands in its section, and the other way round, each with a meaning."""
    assert run([*words.split(), "--help"]) == 0
    help_words = {word.rstrip(",") for word in capsys.readouterr().out.split()}
    shown = parameters(dict(commands())[words])
    options = {parameter.shown.split()[0] for parameter in shown if parameter.shown.startswith("-")}
    in_help = {word for word in help_words if word.startswith("--") and word[2:3].isalpha()}

    assert options == {option for option in options if option in help_words}
    assert all(parameter.message[:1].isupper() or parameter.message[:1].isdigit() for parameter in shown)
    assert in_help - options <= {"--help", "--runs-dir.", "--run:"}
