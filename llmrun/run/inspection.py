"""What a worker finds when it inspects a model before the first step: inspection.json in a scratch run directory.

Workers write it (`llmrun.runtime.inspection`); reading needs no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from llmrun.run.trace import Phase
from llmrun.storage.durable import replace_json

INSPECTION_NAME = "inspection.json"


@dataclass(frozen=True)
class CodePlace:
    """A place in a model's code.

    phase:  the pass in which it was executed; a backward pass is attributed to the code of the forward pass.
    module: dotted name of the innermost module; empty for the model itself.
    source: `file:line` outside torch; None if unknown.
    """

    phase: Phase
    module: str
    source: str | None


@dataclass(frozen=True)
class Operation:
    """A torch operation.  name: as torch names it, such as `aten.bincount.default`.  message: torch's refusal, or empty."""

    name: str
    place: CodePlace
    message: str = ""


@dataclass(frozen=True)
class ModelError:
    """An exception of the model's own code.  error: type and message.  trace: the last lines of its traceback."""

    error: str
    place: CodePlace
    trace: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found in passes over micro-batches 0 and 1 with the initial weights.

    error:            the exception that ended the inspection.
    refused:          operations that torch's deterministic mode refuses on this device, each name and place once.
    refused_on_cuda:  operations that it executes here and refuses on CUDA, each name once, with its first place.
    repeated:         where micro-batch 0 differs when it is executed a second time; (phase, module, what).
    changed:          (module or None, name) of buffers, of attributes of modules, and of globals of the user's files that
                      the passes changed.
    replaced:         names of parameters that were replaced, moved or added by a pass.
    without_gradient: parameters that require a gradient and got none.
    frozen:           parameters that require none.
    not_additive:     how loss or number of targets fail to add up over sequences; None if they do, or it is not known.
    flops:            of forward and backward of one micro-batch, by torch's counter; None if unknown.
    tokens:           tokens of that micro-batch.
    shadowed:         imports of the model's modules that found another file than the one beside them: (the importing
                      file with its line, the file that is not imported, where the imported module comes from).
    shared:           pairs of parameters that share memory in a new model although they are two parameters.
    """

    error: ModelError | None = None
    refused: tuple[Operation, ...] = ()
    refused_on_cuda: tuple[Operation, ...] = ()
    repeated: tuple[Phase, str, str] | None = None
    changed: tuple[tuple[str | None, str], ...] = ()
    replaced: tuple[str, ...] = ()
    without_gradient: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    not_additive: str | None = None
    flops: int | None = None
    tokens: int = 0
    shadowed: tuple[tuple[str, str, str], ...] = ()
    shared: tuple[tuple[str, str], ...] = ()

    def write(self, directory: Path) -> None:
        """Write inspection.json durably.  Raises OSError."""
        replace_json(directory / INSPECTION_NAME, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """What `write` wrote; None if the worker did not get that far."""
        path = directory / INSPECTION_NAME
        if not path.exists():
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
        error, repeated = document["error"], document["repeated"]
        return cls(
            error=None
            if error is None
            else ModelError(error["error"], CodePlace(**error["place"]), tuple(error["trace"])),
            refused=_operations(document["refused"]),
            refused_on_cuda=_operations(document["refused_on_cuda"]),
            repeated=None if repeated is None else tuple(repeated),
            changed=tuple((module, name) for module, name in document["changed"]),
            replaced=tuple(document["replaced"]),
            without_gradient=tuple(document["without_gradient"]),
            frozen=tuple(document["frozen"]),
            not_additive=document["not_additive"],
            flops=document["flops"],
            tokens=document["tokens"],
            shadowed=tuple((file, own, found) for file, own, found in document["shadowed"]),
            shared=tuple((one, other) for one, other in document["shared"]),
        )


def _operations(documents: list[Mapping[str, Any]]) -> tuple[Operation, ...]:
    return tuple(Operation(each["name"], CodePlace(**each["place"]), each["message"]) for each in documents)
