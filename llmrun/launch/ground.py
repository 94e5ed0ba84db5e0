"""What recorded steps can be executed with again, here and now, and how that differs from what made them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmrun.config.dump import numeric_fields
from llmrun.config.resolve import Resolved, resolve_for_D, resolved_of
from llmrun.config.schema import Config
from llmrun.data.manifest import fingerprint_of, read_manifest
from llmrun.errors import InputError, RefusedError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.environment import worker_environment
from llmrun.launch.recorded import recorded_config, recorded_fingerprint
from llmrun.launch.starter import Starter
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.provenance.variables import with_recorded_variables
from llmrun.run.directory import RunDirectory
from llmrun.run.record import RunRecord, Segment
from llmrun.run.settings import dataset_places


@dataclass(frozen=True)
class Ground:
    """What steps of one segment are executed with, here and now.

    resolved:    the recorded config for the ranks of the replay.
    environment: variables of the workers: those that may change bits are as they were recorded.
    recorded:    the fingerprint that the steps were made under.  here: the one they are executed under.
    """

    resolved: Resolved
    data_path: Path
    environment: Mapping[str, str]
    recorded: Fingerprint
    here: Fingerprint


def ground_for(
    run: RunDirectory,
    record: RunRecord,
    segment: Segment,
    starter: Starter,
    D: int | None = None,
    data: Path | None = None,
) -> Ground:
    """What the steps of a segment can be executed with here.

    D: ranks; None takes the segment's, on GPUs no more than there are.
    data: the dataset's directory; None looks where the run had it.
    Raises InputError, RefusedError where it cannot be, DamagedError where run.json does not hold.
    """
    recorded = recorded_fingerprint(run, record, segment)
    config = recorded_config(run, record, segment)
    if config.reproducibility.mode != "bitwise":
        raise RefusedError(
            f"{run.name} was trained in mode {config.reproducibility.mode}: its bits were never promised",
            hints=["`llmrun verify --statistical` compares such runs"],
        )
    resolved = resolved_for(run, config, segment.D, D)
    data_path = dataset_of(run, record, data)
    manifest = read_manifest(data_path)
    variables = recorded.preimages["environment"].get("variables", {})
    base = with_recorded_variables(os.environ, variables)
    environment = worker_environment(base, config.hardware.threads_per_rank, resolved.batch.D)
    probe = starter.probe(config.hardware.device, environment, lambda: None)
    here = Fingerprint(
        {
            "config": numeric_fields(config),
            "data": fingerprint_of(manifest),
            "code": code_preimage(probe.source_files),
            "environment": dict(probe.environment),
        }
    )
    return Ground(resolved, data_path, environment, recorded, here)


def resolved_for(run: RunDirectory, config: Config, recorded_D: int, wished_D: int | None) -> Resolved:
    """The config for the ranks of a replay.  Raises InputError, RefusedError."""
    on_gpus = config.hardware.device == "cuda"
    usable = usable_gpus() if on_gpus else UsableGpus(0)
    refuse_unusable(config.hardware.device, usable)
    gpus = usable.count
    if on_gpus and gpus == 0:
        raise RefusedError(
            f"{run.name} was trained on GPUs, and this machine shows none",
            hints=["replay it on a machine with the same GPU model: other devices give other bits"],
        )
    D = wished_D or (min(recorded_D, gpus) if on_gpus else recorded_D)
    if on_gpus and gpus < D:
        raise InputError(f"D = {D} ranks need {D} GPUs, this machine shows {gpus}", where="--D")
    return resolve_for_D(resolved_of(config, recorded_D), D)


def dataset_of(run: RunDirectory, record: RunRecord, given: Path | None) -> Path:
    """Where the run's dataset lies.  Raises InputError."""
    places = [given] if given is not None else dataset_places(run, record)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise InputError(
            f"the dataset of {run.name} is not where it was",
            caused_by=[f"there is no {place}" for place in dict.fromkeys(places)],
            hints=["`--data DIR` says where it lies now"],
        )
    return found.resolve()
