"""`llmrun data`: make, check and show datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrun.cli import console
from llmrun.errors import DamagedError, InputError
from llmrun.text import counted

if TYPE_CHECKING:
    from llmrun.data.manifest import DatasetManifest, SplitRecord
    from llmrun.data.rows import OnBadRow

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT",
        help="Files (.txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow), directories, or quoted patterns.",
        show_default=False,
    ),
]
TextField = Annotated[
    str, typer.Option("--text-field", metavar="NAME", help="Field of a row with its text; `a.b` is nested.")
]
IdField = Annotated[
    str | None,
    typer.Option("--id-field", metavar="NAME", help="Field of a row with its id.", show_default=False),
]
BadRowRule = Annotated[
    str,
    typer.Option(
        "--on-bad-row",
        metavar="fail|skip",
        help="Refuse a row that cannot be used, or leave it out and count it.",
    ),
]
LongestDocument = Annotated[
    str, typer.Option("--max-document", metavar="N", help="Bytes of the longest document that is taken.")
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset directory.", show_default=False)]


def prepare(
    inputs: Inputs,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Dataset directory to make.", show_default=False),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="byte|bpe|FILE",
            help="Bytes, a BPE trained on the input, or a tokenizer.json.",
            show_default=False,
        ),
    ],
    vocab_size: Annotated[
        str | None,
        typer.Option(
            "--vocab-size", metavar="N", help="Tokens of the BPE; default 32Ki.", show_default=False
        ),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option("--val-fraction", metavar="F", help="Part of the text kept for validation.")
    ] = 0.01,
    shard_tokens: Annotated[
        str, typer.Option("--shard-tokens", metavar="N", help="Tokens in one shard.")
    ] = "64Mi",
    eot: Annotated[
        str | None,
        typer.Option("--eot", metavar="NAME", help="Token of FILE that ends a document.", show_default=False),
    ] = None,
    text_field: TextField = "text",
    id_field: IdField = None,
    on_bad_row: BadRowRule = "fail",
    max_document: LongestDocument = "1Gi",
    as_json: AsJson = False,
) -> None:
    """Turn text into a dataset directory of token shards."""
    from llmrun.cli.progress import ProgressDisplay
    from llmrun.data.prepare import prepare as prepare_dataset
    from llmrun.data.rows import ReadOptions

    with ProgressDisplay() as progress:
        prepared = prepare_dataset(
            inputs,
            out,
            tokenizer,
            vocab_size=None if vocab_size is None else _quantity("--vocab-size", vocab_size),
            val_fraction=val_fraction,
            shard_tokens=_quantity("--shard-tokens", shard_tokens),
            eot=eot,
            report=progress,
            reading=ReadOptions(
                text_field, id_field, _on_bad_row(on_bad_row), _quantity("--max-document", max_document)
            ),
        )
    for text in prepared.notes:
        console.note(f"note: {text}")
    if as_json:
        console.emit_json({**summary(out, prepared.manifest), "already": prepared.already})
        return
    _print_summary(out, prepared.manifest)
    console.out()
    console.out(f"next: set `data.path: {out}` in a config, then `llmrun plan CONFIG`")
    console.out(f"{'already there' if prepared.already else 'made'}: {out}")


def _on_bad_row(given: str) -> "OnBadRow":
    """The value of --on-bad-row.  Raises InputError."""
    if given == "fail":
        return "fail"
    if given == "skip":
        return "skip"
    raise InputError(f"--on-bad-row must be fail or skip, got {given}")


def check(directory: Directory, as_json: AsJson = False) -> None:
    """Check every shard of a dataset against its sha256."""
    from llmrun.data.check import check_dataset
    from llmrun.data.manifest import files_of, read_manifest

    damages = check_dataset(directory)
    if as_json:
        console.emit_json({"sound": not damages, "damaged": [vars(damage) for damage in damages]})
    if damages and as_json:
        raise typer.Exit(DamagedError.exit_code)
    if damages:
        raise DamagedError(
            f"the dataset {directory} is damaged: {counted(len(damages), 'problem')}",
            caused_by=[f"{damage.file} {damage.message}" for damage in damages],
            hints=["copy the files again, or make the dataset again with `llmrun data prepare`"],
        )
    if not as_json:
        n_files = len(files_of(read_manifest(directory)))
        console.out(f"sound: {directory} ({counted(n_files, 'file')} checked)")


def show(
    directory: Directory,
    split: Annotated[str, typer.Option("--split", metavar="train|val", help="Split of the window.")] = "val",
    window: Annotated[
        str | None,
        typer.Option(
            "--window", metavar="N", help="Print the text of this window, from 0.", show_default=False
        ),
    ] = None,
    L_ctx: Annotated[
        str,
        typer.Option(
            "--L-ctx",
            metavar="N",
            help="Context length in tokens (a window holds one more, for the last target).",
        ),
    ] = "256",
    as_json: AsJson = False,
) -> None:
    """Print what a dataset holds."""
    from llmrun.data.manifest import read_manifest

    manifest = read_manifest(directory)
    if window is not None:
        _show_window(
            directory,
            manifest,
            split,
            _quantity("--window", window, least=0),
            _quantity("--L-ctx", L_ctx),
            as_json,
        )
    elif as_json:
        console.emit_json(summary(directory, manifest))
    else:
        _print_summary(directory, manifest)


def order(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")
    ],
    steps: Annotated[
        str,
        typer.Option(
            "--steps", metavar="A:B", help="Steps A to B, both included; or one.", show_default=False
        ),
    ],
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: AsJson = False,
) -> None:
    """Print the windows that steps of a run see, in order.

    They are computed from seed, batch and dataset.json; no token is read, and steps to come are printed too.
    """
    from dataclasses import asdict

    from llmrun.run.directory import find_run
    from llmrun.run.record import read_record
    from llmrun.run.sample_order import samples_of_steps

    found = find_run(run, runs_dir)
    samples = samples_of_steps(found, read_record(found.record_file), *_range("--steps", steps))
    if as_json:
        console.emit_json([asdict(sample) for sample in samples])
        return
    header = f"{'step':>10}{'sequence':>10}{'position':>16}{'epoch':>7}{'window':>16}  tokens"
    for number, sample in enumerate(samples):
        if number == 0:
            console.out(header)
        first, end = sample.tokens
        console.out(
            f"{sample.step:>10,}{sample.sequence:>10,}{sample.position:>16,}{sample.epoch:>7,}"
            f"{sample.window:>16,}  {first:,} … {end - 1:,}"
        )


def _range(option: str, text: str) -> tuple[int, int]:
    """The first and last number of `A:B` or `A`.  Raises InputError."""
    first, colon, last = text.partition(":")
    numbers = (_quantity(option, first), _quantity(option, last if colon else first))
    if numbers[0] > numbers[1]:
        raise InputError(f"{option} must be A:B with A up to B, got {text}")
    return numbers


def _show_window(
    directory: Path, manifest: "DatasetManifest", name: str, window: int, L_ctx: int, as_json: bool
) -> None:
    """One window as text."""
    from llmrun.data.shard_reader import open_split
    from llmrun.data.tokenizers import load_tokenizer

    if name not in manifest.splits:
        raise InputError(f"--split must be train or val, got {name!r}")
    split = open_split(directory, manifest, name, L_ctx, verify=True)
    if window >= split.n_windows:
        raise InputError(
            f"the split {name} has {counted(split.n_windows, 'window')} of L_ctx = {L_ctx:,};"
            f" there is no window {window:,}",
            hints=[f"the last one is `--window {split.n_windows - 1}`"],
        )
    ids = split.window(window).tolist()
    text = load_tokenizer(directory, manifest).decode(ids)
    if as_json:
        console.emit_json({"split": name, "window": window, "L_ctx": L_ctx, "ids": ids, "text": text})
    else:
        console.out(console.printable(text))


def summary(directory: Path, manifest: "DatasetManifest") -> dict[str, Any]:
    """What `--json` prints of a dataset."""
    from llmrun.data.manifest import share_of

    return {
        "path": str(directory),
        "tokenizer": vars(manifest.tokenizer),
        "dtype": manifest.dtype,
        "splits": {
            name: {
                "tokens": split.tokens,
                "documents": split.documents,
                "bytes_of_text": split.bytes_of_text,
                "bytes_per_token": _bytes_per_token(split),
                "shards": len(split.shards),
                "stream_digest": split.stream_digest,
            }
            for name, split in manifest.splits.items()
        },
        "val_share": {"asked": _asked_share(manifest), "got": round(share_of(manifest, "val"), 6)},
        "recipe": dict(manifest.recipe),
    }


def _asked_share(manifest: "DatasetManifest") -> float | None:
    """`--val-fraction` as the recipe records it; None if the dataset was made otherwise."""
    options = manifest.recipe.get("options")
    asked = options.get("val_fraction") if isinstance(options, dict) else None
    return asked if isinstance(asked, int | float) else None


def _bytes_per_token(split: "SplitRecord") -> float | None:
    return round(split.bytes_of_text / split.tokens, 4) if split.tokens else None


def _print_summary(directory: Path, manifest: "DatasetManifest") -> None:
    """The dataset as a small table."""
    from llmrun.data.manifest import share_of

    record = manifest.tokenizer
    console.out(f"dataset    {directory}")
    console.out(
        f"tokenizer  {record.kind}, {record.vocab_size:,} tokens, {record.eot_id} ends a document,"
        f" {manifest.dtype}"
    )
    console.out()
    console.out(
        f"{'split':<6}{'tokens':>18}{'documents':>14}{'bytes of text':>20}{'bytes/token':>13}{'shards':>8}"
    )
    for name, split in manifest.splits.items():
        ratio = _bytes_per_token(split)
        shown = "-" if ratio is None else f"{ratio:.2f}"
        console.out(
            f"{name:<6}{split.tokens:>18,}{split.documents:>14,}{split.bytes_of_text:>20,}"
            f"{shown:>13}{len(split.shards):>8,}"
        )
    asked = _asked_share(manifest)
    if asked is not None:
        got = f"{100 * share_of(manifest, 'val'):.2f} %"
        console.out(f"validation has {got} of the tokens, {100 * asked:.2f} % asked for")
    console.out()
    for name, split in manifest.splits.items():
        console.out(f"{name:<6} stream {split.stream_digest}")


def _quantity(option: str, text: str, least: int = 1) -> int:
    """A quantity such as 64Mi given to an option.  Raises InputError."""
    from llmrun.config.quantities import parse_quantity

    try:
        value = parse_quantity(text)
    except ValueError as error:
        raise InputError(f"{option} {error}", where=f"{option} {text}") from error
    if value < least:
        raise InputError(f"{option} must be at least {least}, got {value:,}")
    return value
