"""The GPUs that workers started here can use: counted by NVML, else by torch; and whether they are enough."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrun.config.resolve import Resolved
from llmrun.errors import InputError, Place, RefusedError
from llmrun.machine import nvidia_is_visible, survey_gpus

COUNT_MODULE = "llmrun.runtime.gpus"
TIMEOUT_S = 120


@dataclass(frozen=True)
class UsableGpus:
    """How many GPUs workers can use here.

    problem: why NVIDIA devices that the system shows cannot be used; None if they can, or if there are none.
    """

    count: int
    problem: str | None = None


def usable_gpus() -> UsableGpus:
    """Count the GPUs.  Starts a process with torch only if NVML cannot count and NVIDIA devices are visible."""
    survey = survey_gpus()
    if not nvidia_is_visible():
        return UsableGpus(len(survey.gpus))
    if survey.problem is None and survey.gpus:
        return UsableGpus(len(survey.gpus))
    found = counted_by_torch(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if found.count:
        return UsableGpus(found.count)
    reasons = [reason for reason in (survey.problem, found.problem) if reason is not None]
    return UsableGpus(0, "; ".join(reasons))


@cache
def counted_by_torch(visible: str | None) -> UsableGpus:  # noqa: ARG001  the key of the cache
    """What torch counts with this value of CUDA_VISIBLE_DEVICES."""
    with TemporaryDirectory(prefix="llmrun-gpus-") as directory:
        answer = Path(directory) / "answer.json"
        command = [sys.executable, "-m", COUNT_MODULE, str(answer)]
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return UsableGpus(0, f"torch did not count the GPUs within {TIMEOUT_S} s")
        if ended.returncode != 0 or not answer.exists():
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            return UsableGpus(0, f"torch cannot count the GPUs: {lines[-1] if lines else ended.returncode}")
        document = json.loads(answer.read_text(encoding="utf-8"))
    return UsableGpus(int(document["count"]), document["problem"])


def refuse_unusable(device: str, gpus: UsableGpus) -> None:
    """Refuse to train on the CPU if there are GPUs that cannot be used.

    device: `hardware.device` as the user wrote it: auto, cpu or cuda.  Raises RefusedError.
    """
    if device == "cpu" or gpus.count or gpus.problem is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    raise RefusedError(
        f"cannot use the NVIDIA devices of this machine{named}: {gpus.problem}",
        where=Place(key="hardware.device"),
        hints=["`nvidia-smi` shows their state", "`--set hardware.device=cpu` trains on the CPU"],
    )


def check_devices(resolved: Resolved) -> None:
    """Check that each rank on a GPU has one of its own.  Raises InputError."""
    if resolved.config.hardware.device != "cuda":
        return
    D, gpus = resolved.batch.D, usable_gpus().count
    if gpus < D:
        raise InputError(
            f"D = {D} ranks need {D} GPUs, this machine shows {gpus}",
            where=Place(key="batch.D"),
            hints=[
                f"any D from 1 to {max(gpus, 1)} has the same bits: `llmrun resume RUN --D {max(gpus, 1)}`"
            ],
        )
