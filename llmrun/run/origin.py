"""The initial state of a migrated run, in place of the initial weights of a run made by `llmrun train`.

provenance/migration.json (format `llmrun-migration/1`, docs/migration.md) holds it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmrun.core.streams import canonical_json
from llmrun.errors import InputError
from llmrun.run.directory import RunDirectory

MIGRATION_FORMAT = "llmrun-migration/1"


@dataclass(frozen=True)
class Origin:
    """The initial state of a migrated run by content: two migrations to the same bits have the same origin.

    step:      finished steps.
    weights, optimizer: combined 64-bit digests of all parameters and of all moments, 16 hex digits each.
    """

    step: int
    weights: str
    optimizer: str

    def as_json(self) -> dict[str, int | str]:
        """The origin as a JSON object: also a part of the fingerprint's preimage."""
        return asdict(self)

    @property
    def chain(self) -> bytes:
        """The ledger's chain value (32 bytes) for everything up to `step`."""
        text = canonical_json(self.as_json())
        return hashlib.sha256(MIGRATION_FORMAT.encode() + b"\0" + text.encode()).digest()


_ORIGIN = "origin"


def with_origin(numeric: Mapping[str, Any], origin: Origin | None) -> dict[str, Any]:
    """The fingerprint's preimage of the config: its numeric fields, and the origin of a migrated run."""
    return dict(numeric) if origin is None else {**numeric, _ORIGIN: origin.as_json()}


def without_origin(preimage: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric fields of the config in the fingerprint's preimage: the inverse of `with_origin`."""
    return {name: value for name, value in preimage.items() if name != _ORIGIN}


def origin_of(run: RunDirectory) -> Origin | None:
    """The origin of a migrated run; None for a run that begins at step 0.

    Raises InputError if migration.json cannot be read.
    """
    path = run.migration_file
    if not path.exists():
        return None
    try:
        return _origin_in(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {path}",
            caused_by=[str(error)],
            hints=["restore it from a copy; trainer.json of the migrated checkpoint holds the same"],
        ) from error


def _origin_in(document: Any) -> Origin:
    """The origin in a migration's document.  Raises ValueError, KeyError or TypeError."""
    if document["format"] != MIGRATION_FORMAT:
        raise ValueError(f"unsupported format {document['format']} (expected {MIGRATION_FORMAT})")
    origin = document["origin"]
    return Origin(int(origin["step"]), str(origin["weights"]), str(origin["optimizer"]))
