"""`llmrun plan`: what a config means and what it will cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console

if TYPE_CHECKING:
    from llmrun.config.load import LoadedConfig
    from llmrun.config.resolve import DatasetFacts


def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Config file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value, e.g. batch.GB_tok=1M; repeatable."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show every formula with its numbers.")] = False,
) -> None:
    """Derive batch, FLOPs, memory, time and cost from a config.

    Nothing is started and nothing is written.  A dataset is needed only where the config gives no vocab_size.
    """
    from llmrun.config.load import load_config
    from llmrun.config.resolve import MachineFacts, resolve
    from llmrun.plan.plan import make_plan, remarks

    loaded = load_config(Path(config), overrides or [])
    dataset = _dataset(loaded)
    resolved = resolve(loaded, dataset, MachineFacts(gpus=_gpus(loaded)))
    result = make_plan(resolved, dataset, _place(loaded, "hardware.accelerator"))
    if json:
        console.emit_json(result.as_json())
    else:
        from llmrun.plan.explain import explanation
        from llmrun.plan.summary import summary

        console.out(summary(result))
        if explain:
            console.out(f"\n{explanation(result)}")
    for remark in remarks(result):
        console.warn(remark.says, remark.hint)


def _dataset(loaded: "LoadedConfig") -> "DatasetFacts | None":
    """What the config's dataset holds; None where it names none, or needs none and there is none yet."""
    path = loaded.config.data.path
    if path is None:
        return None
    if loaded.config.model.vocab_size is not None and not Path(path).exists():
        console.note(f"note: there is no dataset at {path} yet, so its tokens were not counted")
        return None
    from llmrun.data.manifest import facts, read_manifest

    return facts(read_manifest(Path(path), sizes=False))


def _gpus(loaded: "LoadedConfig") -> int:
    """GPUs of this machine; 0, unasked, where neither D nor the device of the plan depends on them.

    Asking the driver costs a tenth of the whole command.
    """
    config = loaded.config
    is_elsewhere = config.hardware.accelerator is not None or config.hardware.device != "auto"
    if config.batch.D is not None and is_elsewhere:
        return 0
    from llmrun.machine import gpu_count

    return gpu_count()


def _place(loaded: "LoadedConfig", key: str) -> str | None:
    """Where the config gives `key`: `file:line  key`."""
    given = loaded.locations.get(key)
    return given if given is None or given.endswith(key) else f"{given}  {key}"
