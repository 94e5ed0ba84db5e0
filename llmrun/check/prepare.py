"""What a check starts from: the scratch config, the dataset, and a report without findings."""

import os
from pathlib import Path

from llmrun.check.report import CheckReport, Measured
from llmrun.check.scratch import ScratchRuns, V, scratch_of
from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, resolve
from llmrun.core.windows import count_windows
from llmrun.data.location import locate_dataset
from llmrun.data.manifest import DatasetManifest, facts, read_manifest
from llmrun.data.synthetic import write_random_dataset
from llmrun.errors import InputError
from llmrun.launch.devices import UsableGpus, refuse_unusable, usable_gpus
from llmrun.launch.model_facts import with_model_facts
from llmrun.launch.os_errors import attempting
from llmrun.launch.preflight import check_space
from llmrun.launch.torchrun import ProcessBackend
from llmrun.launch.watch import SegmentObserver
from llmrun.run.directory import RunDirectory
from llmrun.storage.durable import make_directories

RANDOM_TOKENS = 2**18


def prepare(
    loaded: LoadedConfig,
    steps: int,
    directory: Path,
    backend: ProcessBackend,
    observer: SegmentObserver,
    *,
    synthetic: bool,
    kept: bool,
) -> tuple[ScratchRuns, CheckReport]:
    """The executor of a config's variants, and the head of the report.

    directory: for everything that is written; exists and is empty.
    synthetic: use random tokens.
    Raises ConfigError, InputError, or RefusedError if this machine cannot execute the config.
    """
    if loaded.config.reproducibility.mode != "bitwise":
        raise InputError(
            "reproducibility.mode must be bitwise for a check, got statistical: that mode promises no bits",
            where=loaded.place_of("reproducibility.mode"),
            hints=["`--set reproducibility.mode=bitwise`"],
        )
    data_path = None if synthetic else find_data(loaded)
    manifest = None if data_path is None else read_manifest(data_path)
    device = loaded.config.hardware.device
    gpus = UsableGpus(0) if device == "cpu" else usable_gpus()
    refuse_unusable(device, gpus)
    resolved = resolve(
        loaded, None if manifest is None else facts(manifest), MachineFacts(gpus.count), for_training=True
    )
    resolved = with_model_facts(resolved, backend, lambda: None)
    scratch = scratch_of(resolved, steps)
    batch, where = scratch.resolved.batch, scratch.resolved.config.hardware.device
    reference = RunDirectory(directory / "reference")
    make_directories(reference.checkpoints)
    check_space(reference, scratch.resolved, directory)
    if manifest is None or not has_window(manifest, batch.L_ctx):
        vocabulary = scratch.resolved.config.model.vocab_size
        assert vocabulary is not None, "the config must be resolved"
        write_random_dataset(directory / "data", vocabulary, max(RANDOM_TOKENS, 2 * batch.L_ctx))
        data_path, used = directory / "data", None
    else:
        assert data_path is not None
        used = str(data_path)
    stated = scratch.resolved.model.flops_per_token
    report = CheckReport(
        config=loaded.source,
        device=where,
        steps=steps,
        micro_batches=batch.M,
        tokens=batch.mu_tok,
        changes=scratch.changes,
        data=used,
        measured=Measured(stated_flops_per_token=stated),
        kept=os.fspath(directory) if kept else None,
    )
    ranks_most = gpus.count if where == "cuda" else V
    return ScratchRuns(scratch, data_path, directory, backend, observer, ranks_most), report


def find_data(loaded: LoadedConfig) -> Path:
    """The config's dataset.  Raises InputError if it names none, or one that is not here."""
    written = loaded.config.data.path
    hint = "`--synthetic` uses random tokens"
    if written is None:
        raise InputError("data.path is not given", where=loaded.place_of("data.path"), hints=[hint])
    data_path = locate_dataset(
        [Path.cwd() / written],
        f"there is no dataset at {written}",
        where=loaded.place_of("data.path"),
        hints=["relative paths start at the working directory", hint],
    )
    with attempting("read the dataset", data_path):
        read_manifest(data_path)
    return data_path.resolve()


def has_window(manifest: DatasetManifest, L_ctx: int) -> bool:
    """Whether the training split has a window."""
    return count_windows(manifest.splits["train"].tokens, L_ctx) > 0
