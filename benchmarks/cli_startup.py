"""CPU time of the commands that should feel instant, against importing what they are made of.

    python benchmarks/cli_startup.py [ROUNDS]

Runs `llmrun --help`, `llmrun plan CONFIG` and the floor (`import typer, pydantic, yaml`) in turn, takes the
median of user + system time of each child process (os.wait4), and prints the ratio to the floor.  The target is
at most 2.5.  Byte code is compiled first, as an installation does.
"""

import compileall
import os
import statistics
import sys
import tempfile
from pathlib import Path

import llmrun

TARGET = 2.5
FLOOR = "import typer, pydantic, yaml"
CONFIG = """\
name: startup
T_tokens: 1B
model: {n_layers: 12, d_model: 768, n_heads: 12, vocab_size: 50304}
batch: {GB_tok: 512Ki, μ_tok: 16Ki, L_ctx: 2048, D: 8, V: 8}
hardware: {accelerator: H100-SXM, yuan_per_GPU_hour: 18}
"""


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """User and system time of one child process, its output thrown away."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    file_actions = [(os.POSIX_SPAWN_DUP2, nothing, 1)]
    pid = os.posix_spawn(command[0], command, environment, file_actions=file_actions)
    _, status, usage = os.wait4(pid, 0)
    os.close(nothing)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure in turn and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    package = Path(llmrun.__file__).parent
    compileall.compile_dir(package, quiet=2)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "startup.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        commands = {
            FLOOR: [sys.executable, "-c", FLOOR],
            "llmrun --help": [sys.executable, "-m", "llmrun", "--help"],
            "llmrun plan CONFIG": [sys.executable, "-m", "llmrun", "plan", str(config)],
            "llmrun plan CONFIG --json": [sys.executable, "-m", "llmrun", "plan", str(config), "--json"],
        }
        for command in commands.values():
            cpu_seconds(command, environment)
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                seconds[name].append(cpu_seconds(command, environment))
    floor = statistics.median(seconds[FLOOR])
    print(f"{'command':<32}{'CPU ms':>8}{'ratio':>8}   (median of {rounds}, target {TARGET})")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<32}{median * 1000:>8.0f}{median / floor:>8.2f}")


if __name__ == "__main__":
    main()
