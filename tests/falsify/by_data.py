"""Attempts by other files with the same token stream, and by damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from falsify.attempt import EQUAL, OTHER, Attempt, Ending, Pair
from falsify.ground import Place

STREAM = "the fingerprint covers the token stream, not its files"
DAMAGE = (Ending.OTHER, Ending.REFUSED, Ending.STOPPED)


def _with_data(
    make: Callable[[Place, Path], None], *sets: str, disclosure: str = ""
) -> Callable[[Place], Pair]:
    """A run on a dataset of the attempt's own."""

    def play(place: Place) -> Pair:
        data = place.path / "other data"
        make(place, data)
        options = [word for setting in (f"data.path={data}", *sets) for word in ("--set", setting)]
        return Pair(place.ground.reference("bf16"), place.train(options=options), disclosure)

    return play


def _sharded(place: Place, data: Path) -> None:
    place.ground.prepare(data, "--shard-tokens", "5000")


def _linked(place: Place, data: Path) -> None:
    copy = place.path / "copy"
    shutil.copytree(place.ground.data, copy)
    data.symlink_to(copy, target_is_directory=True)


def _other_split(place: Place, data: Path) -> None:
    place.ground.prepare(data, "--val-fraction", "0.2")


def _damaged(place: Place, data: Path) -> None:
    """Every 64th byte of the training shards is another one; size and time are kept."""
    shutil.copytree(place.ground.data, data)
    for name in _shards(data):
        content = bytearray((data / name).read_bytes())
        content[::64] = bytes(byte ^ 1 for byte in content[::64])
        (data / name).write_bytes(content)


def _shards(data: Path) -> list[str]:
    """Names of the training shards."""
    shards = json.loads((data / "dataset.json").read_text())["splits"]["train"]["shards"]
    return [shard.get("file") or shard["name"] for shard in shards]


ATTEMPTS = (
    Attempt("shards", "the same text in shards of 5,000 tokens", EQUAL, STREAM, _with_data(_sharded)),
    Attempt("data-linked", "a copy of the dataset under another name, behind a symbolic link", EQUAL, STREAM, _with_data(_linked)),
    Attempt("data-split", "another share of validation", OTHER, "the training stream is another one", _with_data(_other_split)),
    Attempt("damage-always", "damaged shards, data.verify: always", DAMAGE, "every shard is checked", _with_data(_damaged, "data.verify=always")),
    Attempt("damage-never", "damaged shards, data.verify: never", (*DAMAGE, Ending.DISCLOSED), "whoever asks for no check is told so", _with_data(_damaged, "data.verify=never", disclosure="data.verify")),
)  # fmt: skip
