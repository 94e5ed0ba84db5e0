"""Time of comparing two long ledgers, beside reading the same bytes and hashing them once.

    python benchmarks/verify_ledgers.py [STEPS] [ROUNDS]

Writes two equal ledgers of STEPS (default 1,000,000) steps and a third that differs in one bit of its last
weights' digest, in a temporary directory; then times, best of ROUNDS and file cache warm: opening, comparing, the chain, and
`llmrun verify A B --json` as a process of its own.  Also the time of one append, per record.
The target is 2 s for the whole command at a million steps.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llmrun.storage.ledger.compare import first_difference
from llmrun.storage.ledger.record import LedgerRecord, optimizer_due
from llmrun.storage.ledger.writer import LedgerReader, LedgerWriter

TARGET_S = 2.0


def record_of(step: int, last_changed: int) -> LedgerRecord:
    """A record as a run writes it; `last_changed` is added to the digest of the weights."""
    if step == 0:
        return LedgerRecord(0, weights_digest=1)
    return LedgerRecord(
        step=step,
        tokens=step * 524_288,
        loss=2.0 + 9.0 / (1 + step),
        grad_norm=1.0 + 1.0 / step,
        learning_rate=1e-3,
        tokens_digest=step * 7_777_777,
        gradients_digest=step * 8_888_888,
        weights_digest=step * 9_999_999 + last_changed,
        optimizer_digest=step if optimizer_due(step) else None,
    )


def write(path: Path, n_steps: int, last_changed: int = 0) -> float:
    """Write a ledger; returns seconds per record."""
    begun = time.perf_counter()
    writer = LedgerWriter.create(path, "benchmark", n_steps)
    for step in range(n_steps + 1):
        writer.append(record_of(step, last_changed if step == n_steps else 0))
    writer.sync()
    writer.close()
    return (time.perf_counter() - begun) / n_steps


def best_s(rounds: int, work: Callable[[], object]) -> float:
    """The shortest of several runs."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def command(a: Path, b: Path, exit_code: int) -> None:
    """`llmrun verify` as a user calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "llmrun", "verify", str(a), str(b), "--json"], capture_output=True, check=False
    )
    if done.returncode != exit_code:
        sys.exit(f"verify ended with {done.returncode}, not {exit_code}: {done.stderr.decode()}")


def main() -> None:
    """Measure and print a table."""
    n_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as directory:
        a, b, c = (Path(directory) / name for name in ("a.bin", "b.bin", "c.bin"))
        append_s = write(a, n_steps)
        shutil.copyfile(a, b)
        write(c, n_steps, last_changed=1)
        one, other = LedgerReader(a), LedgerReader(b)
        rows = {
            "read both files": best_s(rounds, lambda: (a.read_bytes(), b.read_bytes())),
            "sha256 of one file": best_s(rounds, lambda: hashlib.sha256(a.read_bytes())),
            "open both": best_s(rounds, lambda: (LedgerReader(a), LedgerReader(b))),
            "compare all records": best_s(rounds, lambda: first_difference(one, other)),
            "verify one chain": best_s(rounds, one.verify_chain),
            "llmrun verify, equal": best_s(rounds, lambda: command(a, b, 0)),
            "llmrun verify, last step differs": best_s(rounds, lambda: command(a, c, 1)),
        }
        print(f"{n_steps:,} steps, {a.stat().st_size / 1e6:.0f} MB each, best of {rounds}")
        print(f"{'append one record':<34}{append_s * 1e6:>9.1f} µs")
        for name, seconds in rows.items():
            print(f"{name:<34}{seconds * 1e3:>9.1f} ms")
        slowest_s = max(rows["llmrun verify, equal"], rows["llmrun verify, last step differs"])
        print(f"the whole command takes {slowest_s:.2f} s; target {TARGET_S:.0f} s at a million steps")


if __name__ == "__main__":
    main()
