"""The config that a run goes on with.

That of the segment its checkpoint belongs to, from that segment's orders: so everything that was allowed or set
since holds on, however it was given.  On top of it come fields of config.yaml that were edited since that segment
started, then this command's `--set`.  `llmrun train CONFIG --run ID` goes on with CONFIG instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmrun.config.differences import Absent, leaf_differences
from llmrun.config.dump import yaml_value
from llmrun.config.load import LoadedConfig, load_config
from llmrun.errors import InputError
from llmrun.launch.changes import changed_fields
from llmrun.launch.options import LaunchOptions
from llmrun.launch.preflight import Notify
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_of_segment
from llmrun.run.record import RunRecord, Segment

SHARED_AMONG_RANKS = ("batch.A", "batch.D")
"""Never carried over as they are: D is the last segment's or the user's wish, and A follows from it."""


@dataclass(frozen=True)
class GoingOn:
    """What the next segment is resolved from.

    overrides: `--set` values in force, for the record.
    edits:     fields of config.yaml that are not as the run wrote them, dotted key -> value, for the record.
    D:         ranks; None: as the config says.
    """

    loaded: LoadedConfig
    overrides: list[str]
    edits: dict[str, Any]
    D: int | None


def go_on_with_config(
    run: RunDirectory, record: RunRecord, options: LaunchOptions, given: LoadedConfig
) -> GoingOn:
    """With the CONFIG of `llmrun train CONFIG --run ID`."""
    try:
        edits = edits_between(record.config, config_on_disk(run))
    except InputError:  # nothing of config.yaml is needed here
        edits = {}
    return GoingOn(given, list(options.overrides), edits, options.D)


def go_on_with_segment(
    run: RunDirectory, record: RunRecord, reference: Segment | None, options: LaunchOptions, notify: Notify
) -> GoingOn:
    """With the config of the segment `reference`; None: with the run's own, which never started.

    Raises InputError or ConfigError where config.yaml or `--set` is wrong.
    """
    on_disk = config_on_disk(run)
    for line in changed_fields(record.config, on_disk):
        notify(f"config.yaml was edited since the run was made: {line}")
    edits = edits_between(record.config, on_disk)
    fresh = fresh_edits(edits, {} if reference is None else reference.edits)
    earlier = [] if reference is None else [o for o in reference.overrides if key_of(o) not in fresh]
    overrides = merged(earlier, list(options.overrides))
    base = config_of_segment(run, record, reference)
    if base is None:
        assert reference is not None
        worker_spec_file = run.worker_spec_file(reference.segment)
        notify(f"{worker_spec_file} is gone: going on with config.yaml and the `--set` values on record")
        carried = earlier
        base = on_disk
    else:
        carried = carried_over(base, on_disk, fresh)
    D = options.D or wished_D(record, base, on_disk, fresh)
    V = (on_disk if "batch.V" in fresh else base)["batch"]["V"]
    ranks = [
        "batch.A=null",
        f"batch.D={D if V % D == 0 else 'null'}",
    ]  # an uneven D is settled after resolving
    loaded = load_config(run.config_file, [*carried, *ranks, *options.overrides])
    if "eval.windows" not in {key_of(override) for override in options.overrides}:
        # What a run was started with is never refused later: above the split's windows it means all of them.
        kept = {key: place for key, place in loaded.locations.items() if key != "eval.windows"}
        loaded = replace(loaded, locations=kept)
    return GoingOn(loaded, overrides, edits, D)


def config_on_disk(run: RunDirectory) -> dict[str, Any]:
    """What config.yaml says now.  Raises InputError or ConfigError."""
    return load_config(run.config_file).config.model_dump(mode="json", by_alias=True)


def edits_between(written: Mapping[str, Any], on_disk: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.yaml that are not as they were written, dotted key -> value on disk."""
    found = leaf_differences(written, on_disk)
    return {
        key: new for key, old, new in found if not isinstance(old, Absent) and not isinstance(new, Absent)
    }


def fresh_edits(edits: Mapping[str, Any], seen: Mapping[str, Any]) -> set[str]:
    """The keys that were edited, or put back, after a segment had seen config.yaml with the edits `seen`."""
    nothing = object()
    return {key for key in {*edits, *seen} if edits.get(key, nothing) != seen.get(key, nothing)}


def carried_over(base: Mapping[str, Any], on_disk: Mapping[str, Any], fresh: set[str]) -> list[str]:
    """`--set` values that turn config.yaml into the config `base`, but for what was edited since."""
    keep = {*fresh, *SHARED_AMONG_RANKS}
    return [
        f"{key}={yaml_value(value)}" for key, value in edits_between(on_disk, base).items() if key not in keep
    ]


def wished_D(record: RunRecord, base: Mapping[str, Any], on_disk: Mapping[str, Any], fresh: set[str]) -> int:
    """Ranks where the command line says nothing: as edited since, else those of the last segment."""
    if "batch.D" in fresh:
        return int(on_disk["batch"]["D"])
    return int(base["batch"]["D"]) if record.last is None else record.last.D


def key_of(override: str) -> str:
    """The key of `key=value`."""
    return override.partition("=")[0].strip()


def merged(old: list[str], new: list[str]) -> list[str]:
    """Overrides in force: a new value of a key replaces the old one."""
    return list({key_of(override): override for override in [*old, *new]}.values())
