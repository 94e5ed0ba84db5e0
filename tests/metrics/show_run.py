"""Shows eight steps on stderr: run by test_display.py on a pseudo-terminal."""

from rich.console import Console

from llmrun.cli.live_view import Display, RunFacts

ticks = iter(range(100))
display = Display(RunFacts("demo", 8), Console(stderr=True), clock=lambda: float(next(ticks)))
for step in range(1, 9):
    display.add([{"step": step, "tokens": step * 1000, "loss": 8.0 / step, "loss_smooth": 9.0 / step}])
    if step == 4:
        display.notify("a line that stays")
        display.checkpoint_saved(4)
display.close()
