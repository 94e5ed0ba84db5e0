"""`llmrun plan`: what follows from a config, and what the run will cost."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.errors import InputError

if TYPE_CHECKING:
    from llmrun.config.load import LoadedConfig
    from llmrun.config.resolve import DatasetFacts, Resolved
    from llmrun.plan.forecast import TimeEstimate
    from llmrun.plan.plan import Plan
    from llmrun.plan.render.language import Language, Translate


def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Config file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a value, e.g. batch.GB_tok=1M; repeatable."
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="CONFIG2", help="Compare with a second config; --set applies to both."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show every formula with its numbers, and a table of all D.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Time a few steps on this machine, and derive the time from them."),
    ] = False,
    lang: Annotated[
        str | None, typer.Option("--lang", metavar="en|zh", help="Language; default: that of the locale.")
    ] = None,
) -> None:
    """Derive batch, FLOPs, memory, checkpoints, time and cost from a config.

    Starts no processes unless --calibrate is given or the model is your own; writes no files.  Needs a dataset only if the config does not
    give vocab_size.
    """
    from llmrun.cli.measuring import measured_json, measured_lines
    from llmrun.plan.render.language import translator

    translate = translator(_language(lang))
    paths = [path for path in (config, compare) if path is not None]
    planned = [_plan_of(path, overrides or [], calibrate=calibrate) for path in paths]
    plans = [each for each, _ in planned]
    if json:
        from llmrun.plan.render.json import as_json

        figures = [as_json(each) | measured_json(each, timed) for each, timed in planned]
        console.emit_json(figures[0] if compare is None else {"plans": figures})
    elif compare is not None:
        from llmrun.plan.render.compare import comparison

        console.out(comparison(plans[0], plans[1], translate))
    else:
        from llmrun.plan.render.summary import summary

        console.out(summary(plans[0], translate))
        for line in measured_lines(*planned[0], translate):
            console.out(f"  {line}".rstrip())
    if explain and not json:
        from llmrun.plan.render.explain import explanation

        for each in plans:
            console.out(f"\n{explanation(each, translate)}")
    _warn(plans, translate)


def _plan_of(path: str, overrides: list[str], *, calibrate: bool) -> "tuple[Plan, TimeEstimate | None]":
    """The plan of a config file, and the timed steps if asked for."""
    from llmrun.cli.measuring import earlier_runs, timed_here
    from llmrun.config.load import load_config
    from llmrun.config.resolve import MachineFacts, resolve
    from llmrun.plan.plan import MeasuredRate, make_plan

    loaded = load_config(Path(path), overrides)
    dataset = _dataset(loaded)
    resolved = resolve(loaded, dataset, MachineFacts(gpus=_gpus(loaded)))
    resolved = _with_own_model(resolved)
    place = loaded.place_of("hardware.accelerator")
    timed = timed_here(resolved) if calibrate else None
    measured = MeasuredRate(timed.tokens_per_second, "timed", timed) if timed else None
    plan = make_plan(resolved, dataset, place, measured)
    if plan.costs.time_hours is None and (measured := earlier_runs(resolved)) is not None:
        plan = make_plan(resolved, dataset, place, measured)
    return plan, timed


def _with_own_model(resolved: "Resolved") -> "Resolved":
    """`resolved` with the facts of the user's own model, which another process reads; nothing for the built-in one."""
    if resolved.config.model.factory is None:
        return resolved
    from llmrun.launch.model_facts import with_model_facts
    from llmrun.launch.torchrun import TorchrunBackend

    return with_model_facts(resolved, TorchrunBackend(), lambda: None)


def _warn(plans: "list[Plan]", translate: "Translate") -> None:
    """Print the warnings of all plans, each once."""
    from llmrun.plan.render.notes import warning_texts

    for message, hint in dict.fromkeys(text for plan in plans for text in warning_texts(plan, translate)):
        console.warn(message, hint)


def _language(asked: str | None) -> "Language":
    """The language of --lang, else that of the locale.  Raises InputError for an unknown one."""
    from llmrun.plan.render.language import LANGUAGES, language_of

    if asked is None:
        return language_of(os.environ)
    for language in LANGUAGES:
        if asked == language:
            return language
    raise InputError(f"--lang must be en or zh, got {asked}", hints=["write `--lang en` or `--lang zh`"])


def _dataset(loaded: "LoadedConfig") -> "DatasetFacts | None":
    """The facts of the config's dataset, or None without one, or if it does not exist yet and is not needed."""
    path = loaded.config.data.path
    if path is None:
        return None
    if loaded.config.model.vocab_size is not None and not Path(path).exists():
        console.note(f"note: no dataset at {path} yet; its tokens are not counted")
        return None
    from llmrun.data.manifest import facts, read_manifest

    return facts(read_manifest(Path(path), sizes=False))


def _gpus(loaded: "LoadedConfig") -> int:
    """GPUs of this machine; 0 without asking the driver (slow) if neither D nor the device depends on them."""
    config = loaded.config
    is_elsewhere = config.hardware.accelerator is not None or config.hardware.device != "auto"
    if config.batch.D is not None and is_elsewhere:
        return 0
    from llmrun.machine import nvidia_is_visible, survey_gpus

    survey = survey_gpus()
    if survey.problem is not None and nvidia_is_visible():
        hint = "set `hardware.accelerator` and `batch.D` to plan for another machine"
        console.warn(f"cannot count the GPUs of this machine: {survey.problem}", hint)
    return len(survey.gpus)
