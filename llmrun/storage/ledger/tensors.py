"""`ledger-tensors/`: digests of single tensors, stored at every 100th step and at a first difference.

One JSON file per step, `step-00000100.json`:
{"format": "llmrun-ledger-tensors/1", "step": 100, "weights": {name: {"dtype", "shape", "digest"}}, …}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrun.core.combined_digest import TensorDigest
from llmrun.errors import DamagedError
from llmrun.storage.durable import DISK, Disk, make_directories, replace_json

TENSORS_FORMAT = "llmrun-ledger-tensors/1"
TENSOR_QUANTITIES = ("gradients", "weights", "optimizer")

Group = Mapping[str, TensorDigest]


def tensors_file(directory: Path, step: int) -> Path:
    """The file of one step."""
    return directory / f"step-{step:08d}.json"


def write_tensors(directory: Path, step: int, groups: Mapping[str, Group], disk: Disk = DISK) -> Path:
    """Write the digests of a step durably, replacing an earlier file.  Raises OSError.

    groups: digests by tensor name, for some of gradients, weights, optimizer.
    """
    unknown = set(groups) - set(TENSOR_QUANTITIES)
    if unknown:
        raise ValueError(f"groups must be some of {TENSOR_QUANTITIES}, got {sorted(unknown)}")
    make_directories(directory, disk)
    path = tensors_file(directory, step)
    document = {
        quantity: {name: _as_json(t) for name, t in group.items()} for quantity, group in groups.items()
    }
    replace_json(path, {"format": TENSORS_FORMAT, "step": step, **document}, disk)
    return path


def read_tensors(directory: Path, step: int) -> dict[str, dict[str, TensorDigest]] | None:
    """The digests stored at `step` by quantity and tensor; None if there are none.  Raises DamagedError."""
    path = tensors_file(directory, step)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedError(f"{path} is damaged", caused_by=[str(error)]) from error
    try:
        return _groups_of(document, step)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged", caused_by=[str(error)]) from error


def _groups_of(document: Any, step: int) -> dict[str, dict[str, TensorDigest]]:
    """The groups in a file's JSON.  Raises ValueError, KeyError, TypeError or AttributeError."""
    if (document["format"], document["step"]) != (TENSORS_FORMAT, step):
        raise ValueError(
            f"must be {TENSORS_FORMAT} of step {step}, got {document['format']} of {document['step']}"
        )
    return {
        quantity: {name: _from_json(entry) for name, entry in document[quantity].items()}
        for quantity in TENSOR_QUANTITIES
        if quantity in document
    }


def steps_kept(directory: Path) -> list[int]:
    """The steps of which digests are stored, ascending."""
    names = [path.stem.removeprefix("step-") for path in directory.glob("step-*.json")]
    return sorted(int(name) for name in names if name.isdigit())


def differing_tensors(a: Group, b: Group) -> list[str]:
    """The names of the tensors that differ, in the order of `a`, then those that only `b` has."""
    return [name for name in [*a, *(name for name in b if name not in a)] if a.get(name) != b.get(name)]


def _as_json(tensor: TensorDigest) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "digest": f"{tensor.digest:016x}"}


def _from_json(entry: dict[str, Any]) -> TensorDigest:
    return TensorDigest(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), int(entry["digest"], 16))
