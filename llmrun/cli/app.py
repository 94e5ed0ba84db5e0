"""The entry of `llmrun`: finds the command, runs it, turns every error into text and an exit code.

Nothing else in the project ends the process for an error.  A command's module is imported only when the command
runs or its help is asked for.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from llmrun.cli import console, lost_output
from llmrun.cli.registry import COMMANDS, CommandEntry, CommandGroup
from llmrun.errors import TOO_MANY_FILES, InputError, LlmrunError, Place, RefusedError, hints_for
from llmrun.machine import UNINTERRUPTIBLE
from llmrun.run.signals import REPEAT_S, STOP_EXIT_CODE, signals_to_catch
from llmrun.text import command as as_command
from llmrun.text import printable

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What Typer raises for wrong arguments; Typer does not export it under a name of its own."""

SHOWN_NAME = 80
"""Characters of a name that is too long."""

EXIT_BROKEN_PIPE = 141


class Stopped(BaseException):
    """Raised in the main thread by a stop signal, so that whatever is under way cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


class LazyGroup(typer.core.TyperGroup):
    """A group that lists its commands from the registry and imports the one that is asked for."""

    registry: dict[str, CommandEntry | CommandGroup] = COMMANDS

    def list_commands(self, _ctx: Any) -> list[str]:
        """The names, in the registry's order."""
        return list(self.registry)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """The command called `cmd_name`, its module imported now; None if there is none."""
        entry = self.registry.get(cmd_name)
        return None if entry is None else build(cmd_name, entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` names.  Raises InputError with the nearest name."""
        if args[0] not in self.registry and not args[0].startswith("-"):
            raise _no_such_command(ctx.command_path, args[0], self.registry)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.message) for name, entry in self.registry.items()])


class PlainCommand(typer.core.TyperCommand):
    """A command whose usage line shows arguments as people write them.

    Typer writes `{CONFIG}` for a required one, where others write `CONFIG`.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] CONFIG`, `[OPTIONS] INPUT...`, `[OPTIONS] RUN [STEP]`."""
        arguments = [param for param in self.get_params(ctx) if isinstance(param, typer.core.TyperArgument)]
        return [self.options_metavar or "", *map(_usage_of, arguments)]


def _usage_of(argument: typer.core.TyperArgument) -> str:
    """One argument of a usage line."""
    name = argument.metavar or (argument.name or "").upper()
    more = "" if argument.nargs == 1 else "..."
    return f"{name}{more}" if argument.required else f"[{name}]{more}"


def _no_such_command(path: str, name: str, registry: dict[str, CommandEntry | CommandGroup]) -> InputError:
    """The refusal of a misspelt command."""
    from difflib import get_close_matches

    nearest = get_close_matches(name, registry, n=1, cutoff=0.5)
    hints = [f"the nearest command is `{path} {nearest[0]}`"] if nearest else []
    return InputError(
        f"{path} has no command {name!r}", hints=[*hints, f"the commands are {', '.join(registry)}"]
    )


def build(name: str, entry: CommandEntry | CommandGroup) -> Any:
    """The Typer command or group of a registry entry."""
    if isinstance(entry, CommandGroup):
        return build_group(name, entry.message, entry.commands)
    app = _app()
    function = getattr(import_module(entry.module), entry.function)
    app.command(name, cls=PlainCommand, epilog=entry.exit_table())(function)
    return typer.main.get_command(app)


def build_group(name: str, message: str, registry: dict[str, Any]) -> Any:
    """A group whose commands are imported late."""
    kind = type("RegisteredGroup", (LazyGroup,), {"registry": registry})
    app = _app(name=name, cls=kind, help=message)
    app.callback(invoke_without_command=True)(_show_help)
    return typer.main.get_command(app)


def _app(**options: Any) -> typer.Typer:
    """A Typer app that leaves text, colour and errors to us."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def _show_help(ctx: typer.Context) -> None:
    """Print the help if no command is given."""
    if ctx.invoked_subcommand is None:
        console.out(ctx.get_help())


def _show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        from llmrun import __version__

        console.out(f"llmrun {__version__}")
        raise typer.Exit(0)


def llmrun(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour; NO_COLOR does the same.")] = False,
) -> None:
    """Plan, train, resume and verify LLM pre-training runs: same fingerprint, same bits."""
    _ = version, no_color
    _show_help(ctx)


def command_tree() -> Any:
    """The whole command line as one Typer group."""
    app = _app(name="llmrun", cls=LazyGroup)
    app.callback(invoke_without_command=True)(llmrun)
    return typer.main.get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line and end the process with its exit code."""
    if arguments is None:
        _use_utf8()
    lost_output.install()
    _remove_write_permission_for_others()
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    options = given[:cut]
    if "--no-color" in options:
        os.environ["NO_COLOR"] = "1"
        options = [option for option in options if option != "--no-color"]
    _leave(run(options + given[cut:], as_json="--json" in options))


def run(arguments: list[str], as_json: bool = False) -> int:
    """Run one command line; the only mapping from error to text and exit code."""
    try:
        with stop_signals_raise():
            _refuse_lost_directory(arguments)
            return _invoke(arguments)
    except LlmrunError as error:
        return console.fail(error, as_json)
    except Stopped as stopped:
        console.note(f"stopped by {stopped.signal.name}")
        return STOP_EXIT_CODE + stopped.signal
    except UsageError as error:
        return console.fail(_usage_problem(error), as_json)
    except (KeyboardInterrupt, typer.Abort):
        console.note("interrupted")
        return STOP_EXIT_CODE + signal.SIGINT
    except lost_output.ScreenLost as lost:
        if lost.cause.errno == errno.EPIPE:
            return EXIT_BROKEN_PIPE
        return console.fail(InputError(f"cannot write standard output: {lost.cause.strerror}"), as_json)
    except Exception as error:  # noqa: BLE001  the entry: what nobody caught is a bug of ours
        return console.fail(_system_limit(error) or _bug(error), as_json)


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Let the first stop signal raise Stopped here, and a second one end the process at once.

    `train` and `resume` catch the signals themselves while a run is under way.  Outside the main thread nothing
    changes.
    """
    first_s: float | None = None

    def caught(number: int, _frame: FrameType | None) -> None:
        nonlocal first_s
        if first_s is None:
            first_s = time.monotonic()
            raise Stopped(number)
        if time.monotonic() - first_s >= REPEAT_S:
            os._exit(STOP_EXIT_CODE + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, caught) for number in signals_to_catch()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    """End the process; at once if a thread is at work that nothing can interrupt: the interpreter would wait for it."""
    if any(thread.name.startswith(UNINTERRUPTIBLE) for thread in threading.enumerate()):
        with suppress(lost_output.ScreenLost):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _invoke(arguments: list[str]) -> int:
    """Run the command that `arguments` names; returns its exit code."""
    try:
        command = command_tree()
        with command.make_context("llmrun", arguments) as ctx:
            command.invoke(ctx)
        sys.stdout.flush()
    except typer.Exit as ending:
        return ending.exit_code
    return 0


def _use_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale wants another encoding of names and arguments.

    A config is UTF-8, so a name in it and the same name on the command line are the same bytes in every locale.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    interpreter, *rest = sys.orig_argv
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [interpreter, "-X", "utf8", *rest])  # noqa: S606  there is no shell to need


def _refuse_lost_directory(arguments: Sequence[str]) -> None:
    """Relative names and new processes need a working directory.  Raises InputError if it is gone."""
    if not arguments or {"--help", "-h", "--version"} & set(arguments):
        return
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"cannot use the working directory: {error.strerror}",
            hints=["it was deleted or moved: `cd` to a directory that exists"],
        ) from error


def _system_limit(error: Exception) -> LlmrunError | None:
    """The error for a limit of the system that no command handles by itself; None for anything else."""
    if not isinstance(error, OSError):
        return None
    name = printable(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    if error.errno == errno.ENAMETOOLONG:
        shown = name if len(name) <= SHOWN_NAME else f"{name[:SHOWN_NAME]}…"
        return InputError(f"cannot use the name {shown}: it is too long")
    if error.errno in TOO_MANY_FILES:
        return RefusedError("too many open files", where=name or None, hints=hints_for(error))
    return None


def _usage_problem(error: Any) -> InputError:
    """Wrong arguments, in our words."""
    message = error.message if getattr(error, "possibilities", None) else error.format_message()
    message = _wrong_value(error) or message[:1].lower() + message[1:].rstrip(".")
    hints = [f"the nearest is {name}" for name in (getattr(error, "possibilities", None) or [])[:1]]
    path = error.ctx.command_path if error.ctx is not None else "llmrun"
    moved = _command_with_option(error)
    if moved is not None:
        return InputError(f"{path} has no option {error.option_name}: use `llmrun {moved}`")
    return InputError(message, hints=[*hints, f"`{path} --help` shows what it takes"])


def _command_with_option(error: Any) -> str | None:
    """The command that an unknown option was moved to."""
    entry = COMMANDS.get(error.ctx.info_name) if error.ctx is not None else None
    option = getattr(error, "option_name", None)
    if not isinstance(entry, CommandEntry):
        return None
    return next((name for name, options in entry.moved.items() if option in options), None)


_WANTED = {
    "int_parsing": "an integer",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
}
"""What an option must be, by the type and context of pydantic's error about another value."""


def _wrong_value(error: Any) -> str | None:
    """The message for a value that pydantic refused for Typer; None for any other error."""
    if not hasattr(error.__cause__, "errors") or error.param is None:
        return None
    found = error.__cause__.errors()[0]
    param = error.param
    long = [name for name in getattr(param, "opts", []) if name.startswith("--")]
    wanted = _WANTED.get(found["type"], "another value").format(**found.get("ctx", {}))
    named = long[0] if long else param.metavar or str(param.name).upper()
    return f"{named} must be {wanted}, got {found['input']}"


def _bug(error: Exception) -> LlmrunError:
    """An error that nobody foresaw: its traceback in a file, one line for the screen."""
    import tempfile
    import traceback

    from llmrun.storage.durable import replace_text

    message = f"a bug in llmrun: {type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    try:
        log = Path(tempfile.mkdtemp(prefix="llmrun-bug-")) / "traceback.log"
        replace_text(log, f"{as_command('llmrun', *sys.argv[1:])}\n{text}")
    except OSError:
        return LlmrunError(message, caused_by=text.splitlines())
    return LlmrunError(message, where=Place(str(log), note="traceback"))


def _remove_write_permission_for_others() -> None:
    """Set a umask without write permission for others.

    It also holds for the processes that this one starts, so for what torchrun and TensorBoard write.
    """
    os.umask(os.umask(0o077) | 0o002)
