"""`llmrun plan`: what a config means and what it will cost."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmrun.cli import console
from llmrun.errors import InputError

if TYPE_CHECKING:
    from llmrun.config.load import LoadedConfig
    from llmrun.config.resolve import DatasetFacts
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
            "--compare", metavar="CONFIG2", help="Show a second config beside it; --set is for both."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show every formula with its numbers, and the table over D.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few real steps here, and take the time from them.")
    ] = False,
    lang: Annotated[
        str | None, typer.Option("--lang", metavar="en|zh", help="Language; default that of the locale.")
    ] = None,
) -> None:
    """Derive batch, FLOPs, memory, checkpoints, time and cost from a config.

    Nothing is started but by --calibrate, and nothing is left behind.  A dataset is needed only where the config
    gives no vocab_size.
    """
    from llmrun.cli.measuring import measured_json, measured_lines
    from llmrun.plan.render.language import translator

    translate = translator(_language(lang))
    paths = [path for path in (config, compare) if path is not None]
    planned = [_plan_of(path, overrides or [], translate, calibrate=calibrate) for path in paths]
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


def _plan_of(
    path: str, overrides: list[str], translate: "Translate", *, calibrate: bool
) -> "tuple[Plan, TimeEstimate | None]":
    """The plan of a config file, and what was timed for it where that was asked for."""
    from llmrun.cli.measuring import as_measured, earlier_runs, timed_here
    from llmrun.config.load import load_config
    from llmrun.config.resolve import MachineFacts, resolve
    from llmrun.plan.plan import make_plan

    loaded = load_config(Path(path), overrides)
    dataset = _dataset(loaded)
    resolved = resolve(loaded, dataset, MachineFacts(gpus=_gpus(loaded)))
    place = loaded.place_of("hardware.accelerator")
    timed = timed_here(resolved) if calibrate else None
    measured = as_measured(timed, translate) if timed else None
    plan = make_plan(resolved, dataset, place, measured)
    if plan.costs.time_hours is None and (measured := earlier_runs(resolved, translate)) is not None:
        plan = make_plan(resolved, dataset, place, measured)
    return plan, timed


def _warn(plans: "list[Plan]", translate: "Translate") -> None:
    """What the user should know, once each."""
    from llmrun.plan.render.warnings import remarks

    said = [(each.message.by(translate), each.hint.by(translate)) for plan in plans for each in remarks(plan)]
    for message, hint in dict.fromkeys(said):
        console.warn(message, hint)


def _language(asked: str | None) -> "Language":
    """The language asked for, else that of the locale.  Raises InputError for another one."""
    from llmrun.plan.render.language import LANGUAGES, language_of

    if asked is None:
        return language_of(os.environ)
    for language in LANGUAGES:
        if asked == language:
            return language
    raise InputError(f"--lang {asked} is no language of llmrun", hints=["write `--lang en` or `--lang zh`"])


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
    from llmrun.machine import nvidia_is_visible, survey_gpus

    survey = survey_gpus()
    if survey.problem is not None and nvidia_is_visible():
        hint = "`hardware.accelerator` and `batch.D` plan for another machine"
        console.warn(f"cannot count the GPUs of this machine: {survey.problem}", hint)
    return len(survey.gpus)
