"""Number of GPUs that torch finds, for a launcher without NVML: `python -m llmrun.runtime.gpus ANSWER`.

Writes {"count": …, "problem": …} as JSON to the file ANSWER: libraries may print to standard output.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from llmrun.storage.durable import replace_json


def gpus() -> dict[str, Any]:
    """count: GPUs that torch finds.  problem: why it finds none; None if it finds some."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count()
        if count:
            return {"count": count, "problem": None}
        if torch.version.cuda is None:
            return {"count": 0, "problem": f"torch {torch.__version__} is built without CUDA"}
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            return {"count": 0, "problem": str(error).splitlines()[0]}
    words = [str(warning.message).splitlines()[0] for warning in caught]
    return {"count": 0, "problem": "; ".join(["torch shows no GPU", *words])}


if __name__ == "__main__":
    replace_json(Path(sys.argv[1]), gpus())
