"""`plan` of a model of the user's own: exact where it can be, unknown and never 0 elsewhere, until it is measured."""

import json

from llmrun.config.load import load_config
from llmrun.config.resolve import DatasetFacts, MachineFacts, resolve
from llmrun.launch.benchmark import calibrate
from llmrun.launch.model_facts import with_model_facts
from llmrun.plan.forecast import estimate
from llmrun.plan.plan import MeasuredRate, make_plan
from llmrun.plan.render.explain import explanation
from llmrun.plan.render.json import as_json
from llmrun.plan.render.language import chinese, english
from llmrun.plan.render.summary import summary

WIDTH, VOCABULARY = 48, 257
BLOCK = WIDTH * WIDTH + WIDTH + 2 * WIDTH
TABLE = WIDTH * VOCABULARY


def resolved_of(own, pool, *overrides):
    """The resolved config with the model's facts."""
    loaded = load_config(own.config, overrides)
    resolved = resolve(loaded, DatasetFacts(VOCABULARY, 10_000, 1_000), MachineFacts(0))
    return with_model_facts(resolved, pool, lambda: None)


def test_what_is_known_is_exact_and_the_rest_unknown(own, pool):
    """N_params, checkpoint and optimizer are exact; FLOPs, time and the memory of activations are null."""
    plan = make_plan(resolved_of(own, pool, "batch.D=2"))
    figures = json.loads(json.dumps(as_json(plan)))
    total = 2 * BLOCK + TABLE
    assert figures["N_params"] == 2 * BLOCK
    assert figures["N_params_total"] == total
    assert figures["checkpoint_bytes"] == 12 * total
    assert figures["memory_parts_bytes"]["optimizer"] == 8 * total // 2
    assert figures["memory_parts_bytes"]["weights"] == 4 * total
    unknown = (
        "FLOPs",
        "FLOPs_per_token",
        "time_hours",
        "energy_kWh",
        "memory_bytes_per_rank",
        "fits",
        "wall_hours",
    )
    assert {name: figures[name] for name in unknown} == dict.fromkeys(unknown)
    for translate in (english, chinese):
        assert "model:small" in summary(plan, translate)
        assert f"{total:,}" in explanation(plan, translate)


def test_calibrating_counts_flops_and_measures_memory(own, pool):
    """Steps that are executed give the FLOPs that torch counts, the time, and the peak of memory."""
    resolved = resolved_of(own, pool)
    timed = calibrate(resolved, pool, lambda: None)
    found = estimate(timed, resolved.batch, None, None)
    plan = make_plan(resolved, measured=MeasuredRate(found.tokens_per_second, "timed", found))
    figures = as_json(plan)
    products = 2 * WIDTH * WIDTH + TABLE
    assert figures["FLOPs_per_token"] == 6 * products
    assert figures["FLOPs"] == 6 * products * plan.batch.tokens_seen
    assert figures["time_hours"] > 0
    if found.peak_memory_bytes is not None:  # a fork of a larger process may not reach a new peak
        assert figures["memory_bytes_per_rank"] > figures["memory_parts_bytes"]["weights"]
