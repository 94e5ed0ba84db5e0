"""Runs every seeded fault and prints what was expected and what `llmrun verify` said.

    python tests/faults/table.py [--write docs/verify-faults.md]

Takes about a minute.  `--write` puts the table between the two marks in that file.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from faults.bench import Bench
from faults.rows import FAULTS, Expected, Fault
from llmrun.verify.report import Verdict
from warm.pool import Server

BEGIN, END = "<!-- table: python tests/faults/table.py -->", "<!-- end of table -->"

EQUAL_FINGERPRINTS = "; the fingerprints are equal, so config, data, code and environment are not the cause"


def differences(expected: Expected, verdict: Verdict) -> list[str]:
    """In what a verdict is not the expected one."""
    found = verdict.as_json()
    said = " ".join([found["diagnosis"] or "", *found["damage"], *found["notes"]])
    claims = {
        "equal": (expected.equal, found["equal"]),
        "step": (expected.step, found["first_step"]),
        "quantity": (expected.quantity, found["quantity"]),
    }
    if expected.tensors is not None:
        claims["tensors"] = (sorted(expected.tensors), sorted(found["tensors"]))
        claims["tensors' step"] = (expected.step, found["tensors_step"])
    if expected.module is not None:
        claims["module"] = (expected.module, found["module"])
    wrong = [
        f"{name}: expected {one!r}, found {other!r}" for name, (one, other) in claims.items() if one != other
    ]
    return wrong + ([] if expected.message in said else [f"expected {expected.message!r} in {said!r}"])


def row(fault: Fault, verdict: Verdict) -> str:
    """One line of the Markdown table."""
    expected, found = fault.expected, verdict.as_json()
    tensors = None if expected.tensors is None else len(expected.tensors)
    cells = [
        fault.name,
        fault.does,
        f"{summary(expected.step, expected.quantity, tensors, expected.module, equal=expected.equal)}: {fault.why}",
        summary(
            found["first_step"],
            found["quantity"],
            len(found["tensors"]) if expected.tensors is not None else None,
            found["module"],
            equal=found["equal"],
        ),
        (found["diagnosis"] or "; ".join(found["notes"])).removesuffix(EQUAL_FINGERPRINTS),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def summary(step, quantity, tensors, module, *, equal: bool) -> str:
    """`step 7, data`."""
    if equal:
        return "equal"
    what = quantity or "damage"
    where = "" if step is None else "before step 1, " if step == 0 else f"step {step}, "
    count = "" if tensors is None else f", {tensors} tensor{'' if tensors == 1 else 's'}"
    return f"**{where}{what}**{count}{f' (`{module}`)' if module else ''}"


def run_all() -> tuple[list[str], int]:
    """(lines of the table, number of rows that are not as expected)."""
    lines = [
        "| fault | what is done | expected, and why | reported | in words |",
        "|---|---|---|---|---|",
    ]
    wrong = 0
    server = Server()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        bench = Bench(Path(directory), server)
        for fault in FAULTS:
            verdict = bench.verify(*fault.make(bench, fault.name.replace(" ", "-")))
            lines.append(row(fault, verdict))
            for problem in differences(fault.expected, verdict):
                wrong += 1
                print(f"{fault.name}: {problem}", file=sys.stderr)
        os.chdir("/")
    server.close()
    return lines, wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", metavar="FILE", help="put the table into this file")
    arguments = parser.parse_args()
    file = None if arguments.write is None else Path(arguments.write).resolve()
    lines, wrong = run_all()
    if file is None:
        print("\n".join(lines))
    else:
        text = file.read_text()
        head, tail = text.split(BEGIN)[0], text.split(END)[1]
        file.write_text(head + "\n".join([BEGIN, "", *lines, "", END]) + tail)
    sys.exit(f"{wrong} are not as expected" if wrong else 0)


if __name__ == "__main__":
    main()
