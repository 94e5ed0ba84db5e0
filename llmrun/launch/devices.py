"""The GPUs that workers started here could use: NVML's answer, else torch's."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from llmrun.errors import Place, RefusedError
from llmrun.machine import nvidia_is_visible, survey_gpus

COUNT_MODULE = "llmrun.runtime.gpus"
TIMEOUT_S = 120


@dataclass(frozen=True)
class UsableGpus:
    """How many GPUs workers could use here.

    problem: why NVIDIA devices that are visible to the system cannot be used; None if they can, or if there are none.
    """

    count: int
    problem: str | None = None


def usable_gpus() -> UsableGpus:
    """Count the GPUs.  Asks torch, in a process of its own, only if NVML cannot say and NVIDIA devices are visible."""
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
    """What torch counts under this CUDA_VISIBLE_DEVICES."""
    with TemporaryDirectory(prefix="llmrun-gpus-") as place:
        answer = Path(place) / "answer.json"
        command = [sys.executable, "-m", COUNT_MODULE, str(answer)]
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return UsableGpus(0, f"torch did not count the GPUs within {TIMEOUT_S} s")
        if ended.returncode != 0 or not answer.exists():
            words = ended.stderr.decode(errors="replace").strip().splitlines()
            return UsableGpus(0, f"torch cannot count the GPUs: {words[-1] if words else ended.returncode}")
        document = json.loads(answer.read_text(encoding="utf-8"))
    return UsableGpus(int(document["count"]), document["problem"])


def refuse_unusable(device: str, gpus: UsableGpus) -> None:
    """Refuse to train on the CPU instead of GPUs that are there.

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
