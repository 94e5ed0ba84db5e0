"""Names the ending of an attempt: by `llmrun verify`, and by the bytes of the files alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

from falsify.attempt import Ending, Pair
from falsify.ground import STEPS, Finished, Place

LEDGER_HEADER_BYTES = 4096
KEYS_SHOWN = 3
FOUND = {2: Ending.REFUSED, 3: Ending.REFUSED, 4: Ending.STOPPED}


def judge(pair: Pair, place: Place) -> tuple[Ending, str]:
    """The ending, and what differed or was refused."""
    done = pair.variant
    if done.code is None:
        return Ending.HANG, "killed after its time limit"
    if is_traceback(done.err) or (done.code != 0 and done.code not in FOUND):
        return Ending.CRASH, f"exit code {done.code}: {(done.err.strip().splitlines() or ['no output'])[-1]}"
    if done.code != 0:
        errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
        return (
            (FOUND[done.code], errors[-1].removeprefix("error: "))
            if errors
            else (Ending.CRASH, "no error line")
        )
    return compare(pair, place)


def is_traceback(screen: str) -> bool:
    """Whether a command ended in a traceback of its own; one that is cited is indented."""
    return any(line.startswith("Traceback") for line in screen.splitlines())


def compare(pair: Pair, place: Place) -> tuple[Ending, str]:
    """The ending of a variant that finished."""
    bits = differing_bits(pair.reference, pair.variant.run)
    verified = verify(place, pair.reference, pair.variant.run)
    changes = fingerprint_changes(pair.reference, pair.variant.run)
    if (verified is None) != (not bits):
        return Ending.CONTRADICTION, f"verify: {verified or 'equal'}; files: {'; '.join(bits) or 'equal'}"
    if changes:
        more = f" and {len(changes) - KEYS_SHOWN} more" if len(changes) > KEYS_SHOWN else ""
        return Ending.OTHER, f"{', '.join(changes[:KEYS_SHOWN])}{more}; bits {'differ' if bits else 'equal'}"
    if not bits:
        return Ending.EQUAL, ""
    screen = pair.variant.out + pair.variant.err
    if pair.disclosure and pair.disclosure in screen.lower():
        return Ending.DISCLOSED, bits[0]
    return Ending.VIOLATION, "; ".join(bits)


def verify(place: Place, reference: Path, run: Path) -> str | None:
    """What `llmrun verify --json` finds different; None if it calls both equal and compared everything."""
    done: Finished = place.command("verify", str(reference), str(run), "--json")
    assert done.code in (0, 1), f"verify ended with exit code {done.code}: {done.err}"
    found = json.loads(done.out)
    assert found["equal"] == (done.code == 0)
    if not found["equal"]:
        return f"{found['quantity']} at step {found['first_step']}"
    if not found["complete"] or found["steps_compared"] != STEPS or not found["tensors_compared"]:
        return "not everything was compared"
    return None


def differing_bits(reference: Path, run: Path) -> list[str]:
    """Ledger records and tensors of the last checkpoint that differ, read without llmrun's own code."""
    found = []
    ours, theirs = (run_path / "ledger.bin" for run_path in (reference, run))
    if ours.read_bytes()[LEDGER_HEADER_BYTES:] != theirs.read_bytes()[LEDGER_HEADER_BYTES:]:
        found.append("ledger records")
    ours_of, theirs_of = checkpoint_digests(reference), checkpoint_digests(run)
    names = sorted(name for name in {*ours_of, *theirs_of} if ours_of.get(name) != theirs_of.get(name))
    if names:
        found.append(f"{len(names)} of {len(ours_of)} tensors")
    return found


def checkpoint_digests(run: Path) -> dict[str, str]:
    """sha256 of every tensor of the last checkpoint; a cut tensor's pieces follow each other in the order of files."""
    checkpoint = run / "checkpoints" / f"step-{STEPS:08d}"
    digests: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        for name, tensor in json.loads(content[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + offset for offset in tensor["data_offsets"])
                digests.setdefault(name, hashlib.sha256()).update(content[begin:end])
    return {name: digest.hexdigest() for name, digest in digests.items()}


def fingerprint_changes(reference: Path, run: Path) -> list[str]:
    """`part: key` of each difference of the preimages; the segments of both runs are looked at."""
    ours, theirs = (json.loads((path / "run.json").read_text()) for path in (reference, run))
    digests = {segment["fingerprint"] for document in (ours, theirs) for segment in document["segments"]} | {
        ours["fingerprint"]["digest"],
        theirs["fingerprint"]["digest"],
    }
    if len(digests) == 1:
        return []
    a, b = (document["fingerprint"]["preimages"] for document in (ours, theirs))
    return [f"{part}: {key}" for part in a for key in leaves_differing(a[part], b[part])] or [
        "a later segment"
    ]


def leaves_differing(a: Any, b: Any, key: str = "") -> list[str]:
    """Dotted keys of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            found
            for name in sorted({*a, *b})
            for found in leaves_differing(a.get(name), b.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if a == b else [key]
