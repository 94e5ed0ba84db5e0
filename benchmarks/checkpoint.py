"""What a checkpoint costs: llmrun beside torch.save, torch.distributed.checkpoint, a plain copy and a raw write.

    python benchmarks/checkpoint.py [--params 100e6] [--D 1 2] [--rounds 5] [--only save load steps] [--directory DIR]

save    how long the loop stands still (against a plain copy of the bytes), and how long until the checkpoint is
        committed and on the device (against a raw write + fsync of the bytes, as many files, as many ranks)
load    reading the state back, llmrun with every byte verified, with files in the page cache and out of it
steps   training steps while a save is under way in the background, against steps without one

Every rank is a process with one thread.  All sides live in the same processes and take turns, in an order drawn
anew for each round.  Quoted are medians; a ratio is the median of the ratios within a round.  docs/benchmarks/checkpoint.md.
"""

import argparse
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from checkpoint_ours import Ours
    from checkpoint_peers import Side
    from checkpoint_watch import Watch

EXPERIMENTS = ("save", "load", "steps")
IDLE_STEPS = 20
STEP_PARAMS, STEP_MU_TOK = 3_000_000, 512
Seconds = dict[str, list[float]]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=float, default=100e6, help="parameters of the model, about")
    parser.add_argument("--D", type=int, nargs="+", default=[1, 2], help="ranks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--directory", type=Path, default=Path(), help="where files go, below a new name")
    parser.add_argument("--no-peers", action="store_true", help="save: llmrun and its two limits alone")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(arguments: argparse.Namespace, D: int, directory: str) -> int:
    """Start D ranks of this script with one thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    options = ["--params", str(arguments.params), "--rounds", str(arguments.rounds), "--D", str(D)]
    options += ["--no-peers"] if arguments.no_peers else []
    command = [sys.executable, "-W", "ignore", __file__, *options, "--only", *arguments.only]
    ranks = [
        subprocess.Popen([*command, "--directory", directory, "--rank", str(rank)], env=variables)
        for rank in range(D)
    ]
    codes = []
    for rank in ranks:
        codes.append(rank.wait())
        if codes[-1] != 0:  # the others would wait for it
            for other in ranks:
                with suppress(ProcessLookupError):
                    other.kill()
    return max(abs(code) for code in codes)


def main() -> int:
    """Measure each D and print its tables."""
    arguments = parsed()
    if arguments.rank is not None:
        work(arguments)
    import torch

    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores, Linux {platform.release()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    for D in arguments.D:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
            code = launch(arguments, D, directory)
        if code:
            return code
    return 0


def work(arguments: argparse.Namespace) -> None:
    """One rank."""
    import torch
    from checkpoint_ours import Ours, resolved_model

    from llmrun.machine import die_with_parent
    from llmrun.runtime.process_group import process_group

    die_with_parent(os.getppid())
    (D,), rank, place = arguments.D, arguments.rank, arguments.directory
    torch.set_num_threads(1)
    with process_group(D, rank, torch.device("cpu")):
        ours = Ours(place, resolved_model(int(arguments.params), STEP_MU_TOK, D), rank)
        n_params = sum(slot.numel for slot in ours.state.strategy.slots)
        notify(
            rank, f"\nD = {D}, {n_params:,} parameters, {12 * n_params / 1e9:.2f} GB of weights and moments"
        )
        if "steps" in arguments.only:
            measure_steps(arguments, ours)
        if {"save", "load"} & {*arguments.only}:
            measure_files(arguments, ours)
        sys.stdout.flush()
    os._exit(0)


def notify(rank: int, text: str) -> None:
    """Rank 0 speaks."""
    if rank == 0:
        print(text, flush=True)


def measure_files(arguments: argparse.Namespace, ours: "Ours") -> None:
    """Saving and loading, all sides."""
    from checkpoint_ours import warm_copy
    from checkpoint_peers import DcpAsyncSave, DcpSave, PlainCopy, RawWrite, TorchSave, Trained

    rank, place, D = arguments.rank, arguments.directory, ours.state.D
    whole = Trained(ours.state.spec.model.shape, D, sharded=False)
    trained = Trained(ours.state.spec.model.shape, D, sharded=True) if D > 1 else whole
    torch_save, dcp_save = TorchSave(place, whole, rank), DcpSave(place, trained, rank)
    if "save" in arguments.only:
        owned, buffers = warm_copy(ours.state)
        sides: list[Side] = [PlainCopy(owned, buffers), RawWrite(place / "raw", owned, rank), ours]
        peers: list[Side] = [
            torch_save,
            dcp_save,
            DcpAsyncSave(place, trained, rank, reuse=False),
            DcpAsyncSave(place, trained, rank, reuse=True),
        ]
        sides += [] if arguments.no_peers else peers
        report_saves(rank, *measure_saves(sides, arguments.rounds, D))
    if "load" in arguments.only:
        for side in (ours, torch_save, dcp_save):
            side.begin()
            side.finish()
        loads: dict[str, Callable[[], None]] = {
            "torch.load": partial(torch_save.load, mmap=False),
            "torch.load, mmap": partial(torch_save.load, mmap=True),
            "dcp.load": dcp_save.load,
            "llmrun, verified": partial(load_verified, ours),
            "llmrun, not verified": ours.load,
        }
        files = [path for path in place.rglob("*") if path.is_file()]
        report_loads(rank, measure_loads(loads, files, arguments.rounds, D))


def load_verified(ours: "Ours") -> None:
    """As `resume` does: one process reads every byte, then every rank its share."""
    from checkpoint_peers import barrier

    from llmrun.storage.checkpoint.verification import open_verified

    if ours.state.rank == 0:
        open_verified(ours.path)
    barrier()
    ours.load()


def in_turn(names: list[str], rounds: int) -> Iterator[tuple[str, bool]]:
    """Whose turn it is, and whether it counts; the first round warms up.

    The order is drawn anew in each round, alike on all ranks: what one side leaves to the disk (blocks to
    discard) must not always meet the same other side.
    """
    for number in range(rounds + 1):
        for name in random.Random(number).sample(names, len(names)):
            yield name, number > 0


def slowest(seconds: float, D: int) -> float:
    """The longest time of all ranks."""
    import torch

    from llmrun.core.reduce.collectives import gather_integers

    rows = gather_integers([round(seconds * 1e9)], D, torch.device("cpu"))
    return max(row[0] for row in rows) / 1e9


def measure_saves(sides: "list[Side]", rounds: int, D: int) -> tuple[Seconds, Seconds]:
    """(stalls, times until all is on the device) of each side."""
    from checkpoint_peers import barrier

    by_name = {side.name: side for side in sides}
    stalls: Seconds = defaultdict(list)
    durable: Seconds = defaultdict(list)
    for name, counts in in_turn(list(by_name), rounds):
        side = by_name[name]
        barrier()
        begun_s = time.perf_counter()
        side.begin()
        stall_s = time.perf_counter() - begun_s
        side.finish()
        whole_s = time.perf_counter() - begun_s
        side.clear()
        stall_s, whole_s = slowest(stall_s, D), slowest(whole_s, D)
        if counts:
            stalls[name].append(stall_s)
            durable[name].append(whole_s)
    return stalls, durable


def measure_loads(
    loads: dict[str, Callable[[], None]], files: list[Path], rounds: int, D: int
) -> dict[bool, Seconds]:
    """Times by whether the files were in the page cache."""
    from checkpoint_peers import barrier, drop_from_cache

    found: dict[bool, Seconds] = {}
    for is_cached in (True, False):
        found[is_cached] = defaultdict(list)
        for name, counts in in_turn(list(loads), rounds):
            barrier()
            if not is_cached:
                drop_from_cache(files)
                barrier()
            begun_s = time.perf_counter()
            loads[name]()
            seconds = slowest(time.perf_counter() - begun_s, D)
            if counts:
                found[is_cached][name].append(seconds)
    return found


def measure_steps(arguments: argparse.Namespace, ours: "Ours") -> None:
    """Steps without a save and with one, llmrun and async_save in turn."""
    from checkpoint_ours import Training
    from checkpoint_peers import DcpAsyncSave, Trained
    from checkpoint_watch import WatchDcp, WatchOurs

    rank, D = arguments.rank, ours.state.D
    training = Training(rank, D, STEP_PARAMS, STEP_MU_TOK)
    trained = Trained(ours.state.spec.model.shape, D, sharded=D > 1)
    peer = DcpAsyncSave(arguments.directory, trained, rank, reuse=True)
    watches: dict[str, Watch] = {"llmrun": WatchOurs(ours), peer.name: WatchDcp(peer)}
    rounds: dict[str, list[Seconds]] = defaultdict(list)
    for name, counts in in_turn(list(watches), arguments.rounds):
        watch = watches[name]
        found: Seconds = defaultdict(list)
        for _ in range(IDLE_STEPS):
            found["idle"].append(training.step(watch.flags)[0])
        watch.begin()
        phase = "writing"
        while phase != "over":
            seconds, facts = training.step(watch.flags)
            found[phase].append(seconds)
            phase = watch.phase_after(facts.flags)
        watch.clear()
        if counts:
            rounds[name].append(found)
    ours.clear()
    report_steps(rank, rounds)


def ratio(of: list[float], to: list[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def report_saves(rank: int, stalls: Seconds, durable: Seconds) -> None:
    """One table for stall and durability; a copy is not durable, and a raw write has no stall of its own."""
    notify(
        rank,
        f"\n{'save':<28}{'stall, s':>10}{'of copy':>9}{'durable, s':>12}{'of raw':>8}"
        f"   load {os.getloadavg()[0]:.1f}",
    )
    copy, raw = "plain copy", "raw write + fsync"
    for name in stalls:
        stall = f"{statistics.median(stalls[name]):.3f}", f"{ratio(stalls[name], stalls[copy]):.2f}"
        whole = f"{statistics.median(durable[name]):.2f}", f"{ratio(durable[name], durable[raw]):.2f}"
        stall = ("-", "-") if name == raw else stall
        whole = ("-", "-") if name == copy else whole
        notify(rank, f"{name:<28}{stall[0]:>10}{stall[1]:>9}{whole[0]:>12}{whole[1]:>8}")


def report_loads(rank: int, found: dict[bool, Seconds]) -> None:
    """One table for loading; ratios are to torch.load."""
    notify(
        rank,
        f"\n{'load':<28}{'cached, s':>10}{'of torch':>9}{'not cached, s':>15}{'of torch':>9}"
        f"   load {os.getloadavg()[0]:.1f}",
    )
    for name in found[True]:
        cached, read = (
            (statistics.median(times[name]), ratio(times[name], times["torch.load"]))
            for times in (found[True], found[False])
        )
        notify(rank, f"{name:<28}{cached[0]:>10.2f}{cached[1]:>9.2f}{read[0]:>15.2f}{read[1]:>9.2f}")


def report_steps(rank: int, rounds: dict[str, list[Seconds]]) -> None:
    """One table for steps; `lost` is what all steps under a save took beyond as many idle ones."""
    notify(
        rank,
        f"\n{'steps':<28}{'phase':<11}{'steps':>6}{'phase, s':>10}{'step, s':>9}{'of idle':>9}{'lost, s':>9}"
        f"   load {os.getloadavg()[0]:.1f}",
    )
    for name, found in rounds.items():
        for phase in ("idle", "writing", "verifying"):
            in_phase = [(times[phase], statistics.median(times["idle"])) for times in found if times[phase]]
            if not in_phase:
                continue
            columns = [
                statistics.median(len(steps) for steps, _ in in_phase),
                statistics.median(sum(steps) for steps, _ in in_phase),
                statistics.median(statistics.median(steps) for steps, _ in in_phase),
                statistics.median(statistics.median(steps) / idle for steps, idle in in_phase),
                statistics.median(sum(steps) - len(steps) * idle for steps, idle in in_phase),
            ]
            cells = "{:>6.0f}{:>10.2f}{:>9.3f}{:>9.3f}{:>9.2f}".format(*columns)
            notify(rank, f"{name:<28}{phase:<11}{cells}")


if __name__ == "__main__":
    sys.exit(main())
