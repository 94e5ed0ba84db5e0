"""Self-check of a worker: every part of the fingerprint, computed again from what it has read and loaded.

The launcher's fingerprint comes from a probe: another process, some seconds earlier, on another host in a larger job.
A source that was edited since, a library that another node maps, an instruction set that a sandbox forbids: the
worker finds them, and refuses to train under a fingerprint that is not its own.
"""

from collections.abc import Mapping
from typing import Any

import torch

from llmrun.config.differences import ABSENT, leaf_differences
from llmrun.errors import LlmrunError, RefusedError, RunFailedError
from llmrun.provenance.code import code_preimage
from llmrun.provenance.fingerprint import digest_of, show
from llmrun.provenance.imports import ImportRecorder
from llmrun.provenance.mapped_libraries import FileSum
from llmrun.run.origin import without_origin
from llmrun.run.worker_spec import WorkerSpec
from llmrun.runtime.environment import environment
from llmrun.text import cut

NAMED_MAX = 8


def check_inputs(worker_spec: WorkerSpec, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Compare the config and the dataset that this worker has read with the fingerprint of its spec.

    config: the numeric fields.  data: the preimage of part `data`.
    A spec without preimages (that of a benchmark) is not compared.
    Raises RefusedError that names every field that differs.
    """
    if not worker_spec.preimages:
        return
    stated = {part: digest_of(preimage) for part, preimage in worker_spec.preimages.items()}
    lines = [
        f"{part}: the spec states {show(worker_spec.parts.get(part, ABSENT))}, its preimage gives {show(digest)}"
        for part, digest in stated.items()
        if worker_spec.parts.get(part) != digest
    ]
    if digest_of(worker_spec.parts) != worker_spec.fingerprint:
        lines.append("the digest of the fingerprint is not that of its parts")
    read = {"config": config, "data": data}
    covered = {
        "config": without_origin(worker_spec.preimages["config"]),
        "data": worker_spec.preimages["data"],
    }
    lines += [
        f"{part}: {key}: {show(old)} -> {show(new)}"
        for part in covered
        for key, old, new in leaf_differences(covered[part], read[part])
    ]
    if lines:
        raise _differing(RefusedError, "orders.json was edited, or the dataset is another one", lines)


def check_before_training(worker_spec: WorkerSpec, device: torch.device, rank: int) -> None:
    """Compare this worker's code and environment with its spec; afterwards no other code can be imported.

    A spec without preimages (that of a benchmark) is not compared.
    Raises RefusedError that names every file and field that differs.
    """
    if not worker_spec.preimages:
        return
    recorder = ImportRecorder.install()
    lines = [*_code_lines(recorder, worker_spec), *_environment_lines(worker_spec, device)]
    if lines:
        raise _differing(
            RefusedError,
            f"rank {rank} has loaded other code or libraries than the fingerprint covers",
            lines,
        )
    recorder.cover(worker_spec.preimages["code"])


def check_after_training(worker_spec: WorkerSpec, device: torch.device, rank: int) -> None:
    """Compare again: a library loaded since may have changed the float mode or replaced a function.

    Raises RunFailedError that names every file and field that differs.
    """
    if not worker_spec.preimages:
        return
    recorder = ImportRecorder.install()
    lines = [*_code_lines(recorder, worker_spec), *_environment_lines(worker_spec, device)]
    if lines:
        raise _differing(
            RunFailedError, f"the code or libraries of rank {rank} have changed since its first step", lines
        )


def _differing(kind: type[LlmrunError], message: str, lines: list[str]) -> LlmrunError:
    return kind(
        message,
        caused_by=cut(lines, NAMED_MAX),
        hints=["start it again: everything is read again"],
    )


def _code_lines(recorder: ImportRecorder, worker_spec: WorkerSpec) -> list[str]:
    """Files that were executed and are not in the spec.

    The spec may name more than one worker loads: which modules are needed depends on operational settings.
    """
    covered: Mapping[str, str] = worker_spec.preimages["code"]
    own = code_preimage(recorder.source_files())
    return [
        f"code: {name}: {show(covered.get(name, ABSENT))} -> {show(digest)}"
        for name, digest in own.items()
        if covered.get(name) != digest
    ]


def _environment_lines(worker_spec: WorkerSpec, device: torch.device) -> list[str]:
    """Fields of the environment that are not as in the spec.

    `mapped` and `devices` of the spec may name more than one worker uses.  The canary is compared in bitwise mode only.
    """
    covered: dict[str, Any] = dict(worker_spec.preimages["environment"])
    bitwise = worker_spec.config["reproducibility"]["mode"] == "bitwise"
    known = {
        path: FileSum(sha256, tuple(identity))
        for path, (sha256, *identity) in worker_spec.mapped_files.items()
    }
    indexes = [device.index or 0] if device.type == "cuda" else []
    own = environment(indexes, known, with_canary=bitwise)
    if not bitwise:
        covered.pop("canary", None)
        own.pop("canary", None)
    covered["mapped"] = {name: covered.get("mapped", {}).get(name) for name in own["mapped"]}
    if "packages" in own:
        covered["packages"] = {name: covered.get("packages", {}).get(name) for name in own["packages"]}
    if set(own["devices"]) <= set(covered["devices"]):
        covered["devices"] = own["devices"]
    return [
        f"environment: {key}: {show(old)} -> {show(new)}" for key, old, new in leaf_differences(covered, own)
    ]
