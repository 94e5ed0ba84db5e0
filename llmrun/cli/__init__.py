"""The command line: one file per command; parse, call the library, print.

How to write a command
----------------------
`llmrun/cli/<name>.py` defines one function named like the command (a group such as `data` defines one function
per sub-command: `prepare`, `check`, `show`).  The function's parameters are its arguments and options, annotated
for Typer; its docstring is its help (first line: what it does, one line).  Whatever it needs beyond `typer`,
`pathlib` and `llmrun.cli.console` is imported *inside* the function, so that `--help` stays quick.

    from typing import Annotated
    import typer
    from llmrun.cli import console

    def check(
        dataset: Annotated[str, typer.Argument(metavar="DIR", help="Dataset directory.")],
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    ) -> None:
        '''Check every shard of a dataset against its sha256.'''
        from llmrun.data.check import check_dataset

        report = check_dataset(Path(dataset))
        console.emit_json(report.as_json()) if json else console.out(report.as_text())

- The command is named with its one-line help and its exit codes in `llmrun/cli/registry.py`; the table of exit
  codes at the end of its help comes from there.
- Errors are raised (`LlmrunError`), never printed: `llmrun.cli.app.main` is the only place that turns an error
  into text and an exit code.  A result that is not an error but has an exit code of its own (`verify` found a
  difference) ends with `raise typer.Exit(1)` after printing.
- Data goes to stdout (`console.out`, `console.emit_json`), everything else to stderr (`console.note`,
  `console.warn`).  With `--json` stdout is exactly one JSON document.
- A live display uses `console.rich_console()`, which knows about terminals, NO_COLOR and `--no-color`.
- `--no-color` is read by `main` in any position; commands do not declare it.
"""
