"""The header of a ledger: 4,096 bytes that a person can read with `head -2`.

Line 1 is the name of the format, line 2 a JSON object, then spaces up to a final newline.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmrun.errors import DamagedError, InputError
from llmrun.ledger.chain import FORMAT_NAME
from llmrun.ledger.record import CHAIN_BYTES, QUANTITIES, RECORD_BYTES

HEADER_BYTES = 4096
_FAMILY = b"llmrun-ledger/"


@dataclass(frozen=True)
class Header:
    """What a ledger says about itself.

    producer:      free text, such as `llmrun 0.1.0`.  Neither it nor the rest enters the chain.
    quantities:    what the trainer records; a record never holds anything else.
    first_step:    step of the first record: 0 in a whole ledger, more in a tail that was cut off, and in the
                   ledger of a run that begins with a migrated state.
    chain_before:  chain of the step before `first_step`; empty where that is 0.
    """

    producer: str
    quantities: frozenset[str] = frozenset(QUANTITIES)
    first_step: int = 0
    chain_before: bytes = b""

    @property
    def before(self) -> bytes:
        """What stands before the first record in the chain."""
        return self.chain_before if self.first_step else FORMAT_NAME

    def to_bytes(self) -> bytes:
        """The 4,096 bytes.  Raises ValueError where the producer's name does not fit or a name is unknown."""
        unknown = self.quantities - set(QUANTITIES)
        if unknown or "step" not in self.quantities:
            raise ValueError(f"quantities must be `step` and some of {QUANTITIES}, not {sorted(unknown)}")
        fields = {
            "format": FORMAT_NAME.decode(),
            "producer": self.producer,
            "header_bytes": HEADER_BYTES,
            "record_bytes": RECORD_BYTES,
            "first_step": self.first_step,
            "chain_before": self.chain_before.hex(),
            "quantities": [name for name in QUANTITIES if name in self.quantities],
        }
        text = FORMAT_NAME + b"\n" + json.dumps(fields).encode()
        if len(text) >= HEADER_BYTES:
            raise ValueError(
                f"the producer's name has {len(self.producer)} characters, too many for the header"
            )
        return text.ljust(HEADER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> Self:
        """The header in the first bytes of the file `path`.

        Raises InputError for a ledger of another version, DamagedError for anything else that is no header.
        """
        name, _, rest = raw.partition(b"\n")
        if name != FORMAT_NAME and name.startswith(_FAMILY) and len(name) < 32:
            raise InputError(
                f"{path} is a ledger of format {name.decode(errors='replace')}; "
                f"this llmrun reads {FORMAT_NAME.decode()}"
            )
        if name != FORMAT_NAME or len(raw) < HEADER_BYTES:
            raise DamagedError(f"{path} is no ledger: its header is missing or cut short")
        try:
            return cls._from_fields(json.loads(rest))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"the header of {path} is damaged", caused_by=[str(error)]) from error

    @classmethod
    def _from_fields(cls, fields: dict[str, object]) -> Self:
        """The header that JSON describes.  Raises ValueError, KeyError or TypeError where it does not."""
        sizes = (fields["header_bytes"], fields["record_bytes"])
        if sizes != (HEADER_BYTES, RECORD_BYTES):
            raise ValueError(f"header and record of {sizes} bytes, not {(HEADER_BYTES, RECORD_BYTES)}")
        first_step = fields["first_step"]
        chain_before = bytes.fromhex(str(fields["chain_before"]))
        quantities = fields["quantities"]
        if not isinstance(first_step, int) or first_step < 0:
            raise ValueError(f"first_step is {first_step!r}")
        if len(chain_before) != (CHAIN_BYTES if first_step else 0):
            raise ValueError(f"chain_before has {len(chain_before)} bytes")
        if not isinstance(quantities, list) or not set(quantities) <= set(QUANTITIES):
            raise ValueError(f"quantities are {quantities!r}")
        return cls(str(fields["producer"]), frozenset(quantities), first_step, chain_before)


def is_ledger(path: Path) -> bool:
    """Whether a file begins like a ledger of any version."""
    with path.open("rb") as file:
        return file.read(len(_FAMILY)) == _FAMILY
