"""`python -m falsify`, by `make falsify`: tries to get other bits under the same fingerprint.

Exit code 0: every attempt ended as it may.  1: a finding; the last lines name it.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from falsify.attempt import Attempt, Ending
from falsify.catalogue import ATTEMPTS, FAMILIES
from falsify.ground import NotHereError, ReplayEnvironment
from falsify.judge import judge
from falsify.planted import HARMLESS, PLANTED
from falsify.report import Result, full_table, line, write_page


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make falsify", description=__doc__)
    parser.add_argument("--only", default="", help="names of attempts, or beginnings of names, by commas")
    parser.add_argument("--jobs", type=int, default=2, help="attempts at the same time")
    parser.add_argument("--write", action="store_true", help="put the table into docs/falsify.md")
    parser.add_argument("--planted", action="store_true", help="a violation on purpose: it has to be found")
    parser.add_argument("--list", action="store_true", help="print the attempts and end")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Attempt]:
    """The attempts of a command line.  Exits with code 2 if there is none."""
    if options.planted:
        return [HARMLESS, PLANTED]
    wanted = [name for name in options.only.split(",") if name]
    exact = [attempt for attempt in ATTEMPTS if attempt.name in wanted]
    found = exact or [a for a in ATTEMPTS if not wanted or a.name.startswith(tuple(wanted))]
    if not found:
        sys.stderr.write(f"no attempt is named {options.only}\n")
        sys.exit(2)
    return found


def attempted(attempt: Attempt, ground: ReplayEnvironment) -> Result:
    """One attempt from beginning to end; its directory is kept if it is a finding."""
    begun = time.monotonic()
    place = ground.place(attempt.name)
    try:
        ending, detail = judge(attempt.play(place), place)
    except NotHereError as error:
        ending, detail = Ending.NOT_TRIED, str(error)
    except Exception as error:  # noqa: BLE001  one attempt that breaks is a finding, and the others go on
        ending, detail = Ending.CRASH, f"{type(error).__name__}: {error}"
    result = Result(attempt, ending, detail, time.monotonic() - begun)
    if not result.is_finding:
        shutil.rmtree(place.path, ignore_errors=True)
    print(line(result), flush=True)
    return result


def main() -> int:
    """One campaign."""
    options = arguments()
    attempts = chosen(options)
    if options.list:
        print("\n".join(f"{attempt.name:26} {attempt.what}" for attempt in attempts))
        return 0
    ground = ReplayEnvironment(Path(tempfile.mkdtemp(prefix="llmrun-falsify-")))
    begun = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda attempt: attempted(attempt, ground), attempts))
    print(f"\n{full_table(results, FAMILIES, time.monotonic() - begun)}")
    if options.write:
        write_page(full_table(results, FAMILIES, time.monotonic() - begun))
    return exit_code(results, ground.path)


def exit_code(results: Sequence[Result], directory: Path) -> int:
    """1 if there is a finding, whose runs are kept."""
    findings = [result for result in results if result.is_finding]
    if not findings:
        shutil.rmtree(directory)
        return 0
    print(f"\nFOUND {len(findings)}; their runs are in {directory}")
    for result in findings:
        print(f"  {line(result)}\n    again: make falsify ONLY={result.attempt.name}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
