"""The names in a run's `checkpoints/` and in a checkpoint directory (docs/checkpoint-format.md)."""

import re
from collections.abc import Iterable
from pathlib import Path

from llmrun.storage.durable import TEMPORARY_PREFIX

FORMAT = "llmrun-checkpoint/1"
PART_FORMAT = "llmrun-checkpoint-part/1"

MANIFEST = "manifest.json"
TRAINER = "trainer.json"
RNG = "rng.safetensors"
SUMS = "SHA256SUMS"

ABANDONED_PREFIX = "abandoned-"

MODEL = "model"
OPTIMIZER = "optimizer"

KINDS = ("parameter", "buffer", "optimizer/<slot>", "extra")
"""The kinds of tensors; `<slot>` is the name of an optimizer's moment, such as `exp_avg`."""

WORLD_MAX = 99_999
"""The file names have five digits."""

KIND_PATTERN = re.compile(r"parameter|buffer|extra|optimizer/[a-z0-9_]{1,64}")
ATTEMPT_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STEP_PATTERN = re.compile(r"step-([0-9]{8,18})")
_SHARD_PATTERN = re.compile(r"(model|optimizer)-([0-9]{5})-of-([0-9]{5})\.safetensors")


def step_name(step: int) -> str:
    """The directory of the checkpoint after `step` finished optimizer steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in a directory's name; None if it is not the name of a checkpoint."""
    match = _STEP_PATTERN.fullmatch(name)
    if match is None or step_name(int(match[1])) != name:
        return None
    return int(match[1])


def steps_in(checkpoints_dir: Path) -> list[int]:
    """The steps of the checkpoints in a run's `checkpoints/`, ascending; [] if there is no such directory.

    Hidden and abandoned directories are left out.  A symbolic link with the name of a checkpoint is listed: opening
    it reports the damage.
    """
    if not checkpoints_dir.is_dir():
        return []
    steps = (step_of(entry.name) for entry in checkpoints_dir.iterdir() if entry.is_dir())
    return sorted(step for step in steps if step is not None)


def temporary_name(step: int, attempt: str) -> str:
    """The hidden directory that one save writes into; each attempt has its own."""
    assert ATTEMPT_PATTERN.fullmatch(attempt), attempt
    return f"{TEMPORARY_PREFIX}{step_name(step)}-{attempt}"


def abandoned_name(segment: int | str) -> str:
    """The directory for checkpoints that a segment moved out of the way; readers ignore it."""
    return f"{ABANDONED_PREFIX}{segment:03d}" if isinstance(segment, int) else f"{ABANDONED_PREFIX}{segment}"


def shard_name(group: str, rank: int, world: int) -> str:
    """The safetensors file of `rank`, 0-based, out of `world`; the numbers in the name are 1-based."""
    assert 0 <= rank < world <= WORLD_MAX
    return f"{group}-{rank + 1:05d}-of-{world:05d}.safetensors"


def report_name(rank: int) -> str:
    """The part report of `rank`, 0-based: it exists once the rank's files are on disk."""
    return f"rank-{rank + 1:05d}.json"


def group_of(kind: str) -> str:
    """The group of files (`model` or `optimizer`) that holds tensors of a kind."""
    return OPTIMIZER if kind.startswith("optimizer/") else MODEL


def shard_index(name: str, group: str) -> int | None:
    """The 1-based number in the name of a file of `group`; None for any other name."""
    match = _SHARD_PATTERN.fullmatch(name)
    return int(match[2]) if match is not None and match[1] == group else None


def world_of(names: Iterable[str]) -> int | None:
    """The number of ranks in the names of a checkpoint's files; None if no name has it or they disagree."""
    matches = [match for match in map(_SHARD_PATTERN.fullmatch, names) if match is not None]
    worlds = {int(match[3]) for match in matches}
    return worlds.pop() if len(worlds) == 1 else None


def data_files(world: int) -> frozenset[str]:
    """The files that the manifest of a checkpoint of `world` ranks lists."""
    shards = (shard_name(group, rank, world) for group in (MODEL, OPTIMIZER) for rank in range(world))
    return frozenset([*shards, RNG, TRAINER])
