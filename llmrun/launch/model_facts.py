"""Asks another process for the facts of a user's own model: the launcher has no torch."""

import json
import os
from collections.abc import Callable
from dataclasses import replace

from llmrun.config.resolve import Resolved, factory_call
from llmrun.config.schema import Config
from llmrun.core.model.facts import ModelFacts
from llmrun.errors import InputError, Place, error_of
from llmrun.launch.torchrun import ProcessBackend, worker_environment
from llmrun.machine import MODEL


def model_variable(config: Config) -> dict[str, str]:
    """The environment variable that names a config's own model to child processes; empty for the built-in model."""
    if config.model.factory is None:
        return {}
    call = factory_call(config).as_json()
    return {MODEL: json.dumps({"call": call, "import_root": config.model.import_root})}


def with_model_facts(resolved: Resolved, backend: ProcessBackend, check: Callable[[], None]) -> Resolved:
    """`resolved` with the facts of its model, if that is the user's own.

    check: called several times a second; what it raises ends the waiting.
    Raises InputError if the model cannot be imported, made or trained, RefusedError if the process fails.
    """
    config = resolved.config
    if config.model.factory is None:
        return resolved
    base = os.environ | model_variable(config)
    environment = worker_environment(base, config.hardware.threads_per_rank, resolved.batch.D)
    answer = backend.describe_model(environment, check)
    if "refused" in answer:
        raise error_of(answer["refused"])
    facts = ModelFacts.of_json(answer["facts"])
    if config.strategy == "shard" and resolved.batch.D > 1:
        refuse_unshardable(facts)
    return replace(resolved, facts=facts)


def refuse_unshardable(facts: ModelFacts) -> None:
    """Raises InputError for a model that `strategy: shard` cannot cut: it gathers block by block, and cuts by rows."""
    scalars = [name for name, shape in facts.parameters.items() if not shape]
    apart = [
        f"{name} and {first}"
        for name, first in facts.tied.items()
        if facts.block_of(name) != facts.block_of(first)
    ]
    reason = None
    if scalars:
        reason = f"parameters to have a dimension, and {scalars[0]} has none"
    elif apart:
        reason = f"shared parameters to be in one block, and {apart[0]} are not"
    if reason is not None:
        raise InputError(
            f"strategy: shard requires {reason}",
            where=Place(key="strategy"),
            hints=["`--set strategy=replicate` gives the same bits"],
        )
