"""The config that a resumed run continues with.

Later ones win:
1. the config of the reference segment, from its worker spec: all that was allowed or set up to the start step
2. fields of config.yaml that were edited after that segment had started
3. `--set` and `--D` of this command

`llmrun train CONFIG --run ID` continues with CONFIG instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmrun.config.differences import Absent, leaf_differences
from llmrun.config.load import LoadedConfig, load_config
from llmrun.errors import InputError
from llmrun.launch.options import LaunchOptions, Notify
from llmrun.launch.refusals import changed_fields
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_of_segment
from llmrun.run.record import RunRecord, Segment

PER_RANK_FIELDS = ("batch.A", "batch.D")
"""Never taken over: D is the last segment's or the user's choice, and A follows from it."""


@dataclass(frozen=True)
class ResumeConfig:
    """What the next segment is resolved from.

    overrides: `--set` values in force, for the record.
    edits:     fields of config.yaml that differ from what the run wrote, dotted key -> value, for the record.
    D:         ranks; None: as the config says.
    """

    loaded: LoadedConfig
    overrides: list[str]
    edits: dict[str, Any]
    D: int | None


def config_from_file(
    run: RunDirectory, record: RunRecord, options: LaunchOptions, given: LoadedConfig
) -> ResumeConfig:
    """Continue with the CONFIG of `llmrun train CONFIG --run ID`."""
    try:
        edits = edits_between(record.config, config_on_disk(run))
    except InputError:  # config.yaml is not needed here
        edits = {}
    return ResumeConfig(given, list(options.overrides), edits, options.D)


def config_of_run(
    run: RunDirectory, record: RunRecord, reference: Segment | None, options: LaunchOptions, notify: Notify
) -> ResumeConfig:
    """Continue with the config of the segment `reference`; None: with the run's own, which never started.

    Raises InputError or ConfigError if config.yaml or `--set` is wrong.
    """
    on_disk = config_on_disk(run)
    for change in changed_fields(record.config, on_disk):
        notify(f"config.yaml was edited since the run was made: {change}")
    edits = edits_between(record.config, on_disk)
    edited = edited_since(edits, {} if reference is None else reference.edits)
    recorded = [] if reference is None else [o for o in reference.overrides if key_of(o) not in edited]
    base = config_of_segment(run, record, reference)
    applied: list[str] = []
    if base is None:
        assert reference is not None
        spec_file = run.worker_spec_file(reference.segment)
        notify(f"{spec_file} is gone: continuing with config.yaml and the recorded `--set` values")
        base = on_disk
        applied = [override for override in recorded if key_of(override) not in PER_RANK_FIELDS]
    not_taken = {*edited, *PER_RANK_FIELDS}
    replaced = {key: value for key, value in edits_between(on_disk, base).items() if key not in not_taken}
    D = options.D or default_D(record, base, on_disk, edited)
    V = (on_disk if "batch.V" in edited else base)["batch"]["V"]
    replaced |= {
        "batch.A": None,
        "batch.D": D if V % D == 0 else None,
    }  # an uneven D is settled after resolving
    loaded = load_config(
        run.config_file,
        [*applied, *options.overrides],
        replaced=replaced,
        replaced_from=f"the config of {run.name}",
    )
    if "eval.windows" not in {key_of(override) for override in options.overrides}:
        # A value that a run was started with is never refused later: above the split's windows it means all of them.
        locations = {key: place for key, place in loaded.locations.items() if key != "eval.windows"}
        loaded = replace(loaded, locations=locations)
    return ResumeConfig(loaded, merge_overrides(recorded, list(options.overrides)), edits, D)


def config_on_disk(run: RunDirectory) -> dict[str, Any]:
    """What config.yaml says now.  Raises InputError or ConfigError."""
    return load_config(run.config_file).config.model_dump(mode="json", by_alias=True)


def edits_between(written: Mapping[str, Any], on_disk: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `on_disk` that differ from `written`, dotted key -> value; fields that one lacks do not count."""
    found = leaf_differences(written, on_disk)
    edits = {
        key: new
        for key, old, new in found
        if not key.startswith(ARGS) and not isinstance(old, Absent) and not isinstance(new, Absent)
    }
    if any(key.startswith(ARGS) for key, _, _ in found):
        edits[ARGS] = on_disk["model"].get("args")
    return edits


ARGS = "model.args"
"""A mapping whose entries come and go: it counts as one field."""


def edited_since(edits: Mapping[str, Any], seen: Mapping[str, Any]) -> set[str]:
    """The keys that were edited, or reset, after a segment had read config.yaml with the edits `seen`."""
    unedited = object()
    return {key for key in {*edits, *seen} if edits.get(key, unedited) != seen.get(key, unedited)}


def default_D(
    record: RunRecord, base: Mapping[str, Any], on_disk: Mapping[str, Any], edited: set[str]
) -> int:
    """Ranks if the command line does not say: as edited since, else those of the last segment."""
    if "batch.D" in edited:
        return int(on_disk["batch"]["D"])
    return int(base["batch"]["D"]) if record.last is None else record.last.D


def key_of(override: str) -> str:
    """The key of `key=value`."""
    return override.partition("=")[0].strip()


def merge_overrides(old: list[str], new: list[str]) -> list[str]:
    """Overrides in force: a new value of a key replaces the old one."""
    return list({key_of(override): override for override in [*old, *new]}.values())
