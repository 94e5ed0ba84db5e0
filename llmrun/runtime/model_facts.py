"""Facts of the user's own model, as JSON on a file descriptor: `boot.py -m llmrun.runtime.model_facts`.

The launcher and `plan` have no torch: this process constructs the model without memory for its parameters.  The model
is named by the environment variable LLMRUN_MODEL.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from llmrun.errors import LlmrunError
from llmrun.machine import ANSWER, MODEL
from llmrun.runtime.model_import import ModelImport, import_model, shadowed_files


def answer_for(variables: "os._Environ[str] | dict[str, str]") -> str:
    """The answer as one line of JSON: `facts`, or `refused`, an error as JSON."""
    import torch

    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    model = ModelImport.of_environment(variables)
    assert model is not None, f"{MODEL} is not set"
    try:
        facts = import_model(model).facts
        shadowed = shadowed_files(Path(model.import_root))
        return json.dumps({"facts": replace(facts, shadowed=shadowed).as_json()})
    except LlmrunError as error:
        return json.dumps({"refused": error.as_json()})


def main() -> None:
    """Write the answer to the file descriptor in LLMRUN_ANSWER_FD."""
    answer = answer_for(os.environ)
    os.write(int(os.environ[ANSWER]), f"\n{answer}\n".encode())
    sys.stdout.flush()
    os._exit(0)  # no shutdown code of the user's modules


if __name__ == "__main__":
    main()
