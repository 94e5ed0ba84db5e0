"""The frame of the command line: help, exit codes, errors as text and as JSON, colour."""

import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from llmrun import __version__
from llmrun.cli import app, console
from llmrun.cli.app import run
from llmrun.cli.registry import COMMANDS, MEANINGS, CommandEntry, CommandGroup
from llmrun.errors import (
    ConfigError,
    DamagedError,
    DiskFullError,
    Hint,
    InputError,
    LlmrunError,
    Place,
    PreemptedError,
    Problem,
    RefusedError,
    RunFailedError,
    error_of,
)


def commands() -> Iterator[tuple[list[str], CommandEntry]]:
    """Every command with the words that call it."""
    for name, entry in COMMANDS.items():
        if isinstance(entry, CommandGroup):
            yield from (([name, inner], command) for inner, command in entry.commands.items())
        else:
            yield [name], entry


def llmrun(
    *arguments: str, environment: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """`llmrun` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "llmrun", *arguments],
        env=os.environ | (environment or {}), capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`llmrun`, `llmrun -h` and `llmrun --help` print the same: each command and its line."""
    for arguments in ([], ["-h"], ["--help"]):
        assert run(arguments) == 0
        screen = capsys.readouterr()
        assert screen.err == ""
        assert "Usage: llmrun [OPTIONS] COMMAND [ARGS]..." in screen.out
        words = " ".join(screen.out.split())
        assert all(f"{name} {entry.message}" in words for name, entry in COMMANDS.items())


def test_help_of_a_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`llmrun data` and `llmrun data --help` print prepare, check and show."""
    for arguments in (["data"], ["data", "--help"]):
        assert run(arguments) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert "prepare Turn text into a dataset directory of token shards." in words


@pytest.mark.parametrize(
    ("words", "command"),
    list(commands()),
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_the_registry_says_what_the_command_says(words: list[str], command: CommandEntry) -> None:
    """The line in the list is the first line of the function's docstring."""
    function = getattr(import_module(command.module), command.function)
    first_line = (inspect.getdoc(function) or "").splitlines()[0]

    assert first_line == command.message, " ".join(words)


@pytest.mark.parametrize(
    ("words", "command"),
    list(commands()),
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_help_ends_with_the_exit_codes(
    words: list[str], command: CommandEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command's help ends with a table of its exit codes, 70 last."""
    assert run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("Exit codes:") :].splitlines()[1:]

    assert [int(line.split()[0]) for line in table if line.strip()] == [*command.exits, 70]


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("plan", "CONFIG"),
        ("verify", "A [B]"),
        ("data prepare", "INPUT..."),
        ("checkpoints check", "RUN|DIR [STEP]"),
        ("runs list", ""),
    ],
)
def test_usage_lines(words: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments as people write them: what may be left out in brackets, what repeats with three dots."""
    assert run([*words.split(), "--help"]) == 0

    assert capsys.readouterr().out.splitlines()[0] == f"Usage: llmrun {words} [OPTIONS] {arguments}".rstrip()


def test_a_missing_argument_is_named_as_in_the_usage_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No braces, no dots."""
    assert run(["data", "prepare", "--out", "x", "--tokenizer", "byte"]) == 2

    assert capsys.readouterr().err.splitlines()[0] == "error: missing argument 'INPUT'"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`llmrun --version` prints one line."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"llmrun {__version__}\n"


def test_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest command is named; exit 2."""
    assert run(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: llmrun has no command 'trian'\n"
        "\n"
        "hint: the nearest command is `llmrun train`\n"
        f"hint: the commands are {', '.join(COMMANDS)}\n"
    )


def test_a_misspelt_command_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    """Sub-commands have nearest names too."""
    assert run(["data", "chek"]) == 2
    assert "hint: the nearest command is `llmrun data check`\n" in capsys.readouterr().err


def test_a_misspelt_option(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown option names the nearest; exit 2."""
    assert run(["plan", "x.yaml", "--jsn"]) == 2
    assert capsys.readouterr().err == (
        "error: no such option: --jsn\n"
        "\n"
        "hint: the nearest is --json\n"
        "hint: `llmrun plan --help` shows what it takes\n"
    )


def test_a_missing_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing argument is the user's, named as in the help."""
    assert run(["plan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: missing argument 'CONFIG'")
    assert error.endswith("hint: `llmrun plan --help` shows what it takes\n")


def raise_in_plan(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `llmrun plan` raise `error`."""

    def plan(json: bool = False) -> None:
        _ = json
        raise error

    monkeypatch.setattr("llmrun.cli.plan.plan", plan)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DamagedError("x"), 1), (InputError("x"), 2), (RefusedError("x"), 3), (RunFailedError("x"), 4),
        (PreemptedError("x"), 75), (LlmrunError("x"), 70),
        (KeyboardInterrupt(), 130),
    ],
)  # fmt: skip
def test_each_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error tree is mapped to exit codes in one place."""
    raise_in_plan(error, monkeypatch)

    assert run(["plan"]) == code


def test_a_bug_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An unforeseen exception ends with 70; its traceback is in a file that the screen names."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raise_in_plan(ZeroDivisionError("by nought"), monkeypatch)

    assert run(["plan"]) == 70
    error = capsys.readouterr().err
    (log,) = tmp_path.glob("llmrun-bug-*/traceback.log")
    assert error == f"error: a bug in llmrun: ZeroDivisionError: by nought\n  --> {log}  (traceback)\n"
    assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8")


def test_errors_are_json_where_json_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json an error is one JSON object on stderr, and stdout stays empty."""
    hints = [Hint.command("`llmrun watch runs/a`", "runs/a"), "wait"]
    raise_in_plan(RefusedError("locked", where="runs/a", hints=hints), monkeypatch)
    monkeypatch.setattr(sys, "argv", ["llmrun", "plan", "--json"])

    with pytest.raises(SystemExit) as ending:
        app.main()
    screen = capsys.readouterr()
    assert ending.value.code == 3
    assert screen.out == ""
    assert json.loads(screen.err) == {
        "kind": "refused",
        "message": "locked",
        "where": {"file": "runs/a", "line": None, "key": None, "option": None, "note": None},
        "caused_by": [],
        "hints": [
            {"text": "`llmrun watch runs/a`", "kind": "command", "subject": "runs/a"},
            {"text": "wait", "kind": "advice", "subject": None},
        ],
        "exit_code": 3,
    }


@pytest.mark.parametrize(
    "error",
    [
        InputError(
            "a", where=Place("x.yaml", 3, "batch.A"), caused_by=["b"], hints=[Hint.setting("c", "batch.A")]
        ),
        DiskFullError("a", where="runs/a"),
        PreemptedError("a"),
        LlmrunError("a", hints=["b"]),
    ],
    ids=lambda error: error.kind,
)
def test_an_error_survives_its_way_through_json(error: LlmrunError) -> None:
    """A worker's error arrives at the launcher with its class and all its fields."""
    again = error_of(json.loads(json.dumps(error.as_json())))

    assert type(again) is type(error)
    assert again.as_json() == error.as_json()


def test_an_error_of_an_older_release_is_read() -> None:
    """Runs made before kinds existed hold `error`, and strings for place and hints."""
    error = error_of({"error": "x", "where": "a/b", "caused_by": ["c"], "hints": ["d"], "exit_code": 4})

    assert type(error) is RunFailedError
    assert (error.message, error.where, error.caused_by, error.hints) == ("x", Place("a/b"), ("c",), ("d",))


def test_a_closed_pipe_is_no_bug(tmp_path: Path) -> None:
    """`llmrun plan … | head -0` ends quietly with 128 + SIGPIPE."""
    config = tmp_path / "a.yaml"
    config.write_text("model: {vocab_size: 4096}\n", encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "llmrun", "plan", str(config)],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)

    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_a_terminal_that_cannot_show_greek(tmp_path: Path) -> None:
    """An ASCII stdout gets escapes, not a traceback."""
    config = tmp_path / "a.yaml"
    config.write_text("model: {vocab_size: 4096}\n", encoding="utf-8")
    done = llmrun("plan", str(config), environment={"PYTHONIOENCODING": "ascii"})

    assert done.returncode == 0
    assert r"\u03bc_tok" in done.stdout


def test_python_m_llmrun_and_no_color() -> None:
    """`--no-color` is taken in any position."""
    done = llmrun("plan", "--no-color", "nowhere.yaml")

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_text_of_an_error() -> None:
    """Statement, place, causes, an empty line, each hint once."""
    error = InputError(
        "a ≠ b",
        where=Place("x.yaml", 3, "batch.A"),
        caused_by=["disk", "cable"],
        hints=["do c", "do d", "do c"],
    )

    assert console.render_error(error) == (
        "error: a ≠ b\n  --> x.yaml:3  batch.A\n  Caused by: disk\n  Caused by: cable\n\nhint: do c\nhint: do d"
    )


def test_text_of_one_problem() -> None:
    """A config with one problem reads like any other error."""
    error = ConfigError("x.yaml", [Problem("a must be b", "batch.A", Place("x.yaml", 3), "set b")])

    assert console.render_error(error) == "error: a must be b\n  --> x.yaml:3  batch.A\n\nhint: set b"


def test_text_of_many_problems() -> None:
    """Many problems stand under one header with their count; a hint they share stands once, at the end."""
    problems = [
        Problem("a must be b", "batch.A", Place("x.yaml", 3), "set b"),
        Problem("c is unknown", None, Place("x.yaml", 5), "read the docs"),
        Problem("d is unknown", "d", None, "read the docs"),
        Problem("e is unknown", "e", Place(option="--set e"), None),
    ]

    assert console.render_error(ConfigError("x.yaml", problems)) == (
        "error: x.yaml has 4 problems\n"
        "\n  a must be b\n    --> x.yaml:3  batch.A\n    hint: set b\n"
        "\n  c is unknown\n    --> x.yaml:5\n"
        "\n  d is unknown\n    --> d\n"
        "\n  e is unknown\n    --> --set e\n"
        "\nhint: read the docs"
    )


def test_a_files_content_cannot_drive_the_terminal() -> None:
    """Control characters in a message are written out."""
    assert console.render_error(InputError("bad \x1b[2J\r\x07 name")) == "error: bad \\x1b[2J\\x0d\\x07 name"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        ({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)  # fmt: skip
def test_colour_on_a_terminal(
    environment: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets colour unless NO_COLOR or TERM=dumb; only the leading word is coloured."""
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    console.fail(InputError("bad", hints=["fix"]))

    plain = "error: bad\n\nhint: fix\n"
    coloured = "\x1b[1;31merror:\x1b[0m bad\n\n\x1b[36mhint:\x1b[0m fix\n"
    assert stream.getvalue() == (coloured if is_coloured else plain)


@pytest.mark.parametrize("name", ["FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"])
def test_no_colour_off_a_terminal(name: str) -> None:
    """What forces colour elsewhere does not here: help and errors are plain where nobody looks."""
    environment = {name: "1", "NO_COLOR": "", "TERM": "xterm"}
    helped, failed = llmrun("--help", environment=environment), llmrun("nothing", environment=environment)

    assert "\x1b" not in helped.stdout + failed.stderr


def test_a_rich_console_is_a_terminal_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live displays are not forced by FORCE_COLOR, and not animated under TERM=dumb."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    assert not console.rich_console(io.StringIO()).is_terminal
    assert console.rich_console(Terminal()).is_terminal
    monkeypatch.setenv("TERM", "dumb")
    assert not console.rich_console(Terminal()).is_terminal


def test_every_exit_code_has_a_meaning() -> None:
    """No command can end with a code that the table cannot explain."""
    for _, command in commands():
        assert {*command.exits, 70} <= MEANINGS.keys()


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("train x.yaml --until end", ("--until", "integer", "end")),
        ("sample x --tokens 0", ("--tokens", "1", "0")),
        ("sample x --temperature hot", ("--temperature", "number", "hot")),
        ("checkpoints check x newest", ("STEP", "integer", "newest")),
    ],
)
def test_a_wrong_value_is_named(
    line: str, facts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The option or argument, what it takes and what was given, in our own words."""
    assert run(line.split(), as_json=True) == 2
    error = json.loads(capsys.readouterr().err)

    assert error["kind"] == "input"
    assert [fact for fact in facts if fact not in error["message"]] == []
    assert "should be" not in error["message"]
