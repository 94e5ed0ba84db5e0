"""`llmrun sample`: text from a run's newest sound checkpoint."""

from typing import Annotated

import typer

from llmrun.cli import console


def sample(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's directory, or its name below --runs-dir.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue.")] = "",
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Most tokens to generate.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 always takes the most likely token.")
    ] = 0.8,
    top_k: Annotated[
        int, typer.Option("--top-k", min=0, help="Sample from the k most likely tokens; 0: from all.")
    ] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 0,
    runs_dir: Annotated[
        str, typer.Option("--runs-dir", metavar="DIR", help="Where names are looked up.")
    ] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Print text that a run's model writes."""
    from llmrun.errors import InputError
    from llmrun.run.directory import find_run
    from llmrun.sample.generate import Sampling, load_generator
    from llmrun.text import is_utf8, printable

    if not is_utf8(prompt):
        raise InputError(f"--prompt must be UTF-8, got {printable(prompt)}")
    generator = load_generator(find_run(run, runs_dir))
    if generator.changed:
        console.warn(f"the model's code was changed since the run: {', '.join(generator.changed)}")
    text = generator.generate(prompt, Sampling(seed, tokens, temperature, top_k))
    if as_json:
        console.emit_json({"text": text, "prompt": prompt, "seed": seed, "step": generator.checkpoint.step})
    else:
        console.out(text)
