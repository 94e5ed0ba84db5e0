"""The plan of a config: identities between its figures, remarks, sizes."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.load import load_config
from llmrun.config.resolve import DatasetFacts, MachineFacts, Resolved, resolve, resolve_for_D
from llmrun.plan.checkpoint_size import checkpoint_size
from llmrun.plan.plan import make_plan
from llmrun.plan.render.amounts import show_count, show_hours
from llmrun.plan.render.explain import explanation
from llmrun.plan.render.json import as_json
from llmrun.plan.render.summary import summary
from llmrun.plan.warnings import plan_warnings
from llmrun.text import format_bytes

DEMO = """\
name: demo
T_tokens: 4Mi
model: {n_layers: 6, d_model: 256, n_heads: 8, n_kv_heads: 4, d_ff: 688, vocab_size: 4096, dropout: 0.1}
batch: {GB_tok: 16Ki, μ_tok: 2Ki, L_ctx: 256, D: 2, V: 8}
schedule: {warmup_tokens: 256Ki}
hardware: {device: cpu}
"""


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's config."""
    path = tmp_path_factory.mktemp("plan") / "demo.yaml"
    path.write_text(DEMO, encoding="utf-8")
    return path


def resolved(path: Path, *overrides: str) -> Resolved:
    """The config resolved on a machine without a GPU."""
    return resolve(load_config(path, overrides), None, MachineFacts(gpus=0))


CONTRACT = {
    "GB_tok", "mu_tok", "L_ctx", "A", "D", "V", "M", "steps", "T_tokens", "tokens_seen", "warmup_steps",
    "N_params", "N_params_total", "FLOPs_6NT", "FLOPs", "time_hours", "GPU_hours", "energy_kWh", "yuan_energy",
    "yuan_GPU", "checkpoint_bytes", "checkpoint_bytes_per_rank", "memory_bytes_per_rank", "A_per_rank",
}  # fmt: skip


def test_json_has_the_keys_scripts_rely_on(demo_file: Path) -> None:
    """All keys of the contract are there; what cannot be known is None."""
    plan = as_json(make_plan(resolved(demo_file)))

    assert plan.keys() >= CONTRACT
    assert plan["GB_tok"] == plan["D"] * plan["A"] * plan["mu_tok"] == 16384
    assert plan["A_per_rank"] == {"smallest": 4, "largest": 4}
    assert plan["M"] == 8
    assert plan["steps"] == 256
    assert plan["warmup_steps"] == 16
    assert plan["N_params"] == 4_353_280
    assert plan["N_params_total"] == 5_401_856
    assert plan["FLOPs_6NT"] == 6 * 4_353_280 * 4 * 2**20
    assert plan["FLOPs"] == plan["FLOPs_per_token"] * 4 * 2**20
    assert plan["checkpoint_bytes"] == 12 * 5_401_856
    assert plan["time_hours"] is plan["GPU_hours"] is plan["yuan_GPU"] is None


def test_large_counts_are_exact_integers(demo_file: Path) -> None:
    """At 10^12 tokens and beyond 2^53 no count is rounded."""
    plan = as_json(make_plan(resolved(demo_file, "T_tokens=1000000000000000001")))
    steps = 1000000000000000001 // 16384

    assert plan["steps"] == steps
    assert plan["tokens_seen"] == steps * 16384
    assert plan["FLOPs_6NT"] == 6 * 4_353_280 * steps * 16384
    assert isinstance(plan["FLOPs"], int)


def test_an_uneven_D_has_no_A(demo_file: Path) -> None:
    """A resume on D = 3 of 8 lanes: A is None, A_per_rank tells, and waiting makes it longer."""
    even = resolved(demo_file, "hardware.accelerator=H100-SXM")
    plan, uneven = make_plan(even), make_plan(resolve_for_D(even, 3))

    assert as_json(uneven)["A"] is None
    assert as_json(uneven)["A_per_rank"] == {"smallest": 2, "largest": 3}
    assert uneven.costs.GPU_hours > plan.costs.GPU_hours
    (warning,) = plan_warnings(uneven)
    assert (warning.problem.kind, warning.hint.kind) == ("uneven", "even_D")
    assert (warning.problem.fields["D"], warning.problem.fields["V"], warning.hint.fields["cheap"]) == (
        3,
        8,
        2,
    )
    assert plan_warnings(plan) == []


def test_a_D_that_divides_M_but_not_V_is_remarked(demo_file: Path) -> None:
    """M = 24 over D = 6 is a whole A, but 8 lanes are not shared evenly."""
    plan = make_plan(resolved(demo_file, "batch.GB_tok=48Ki", "batch.D=6"))

    assert as_json(plan)["A"] == 4
    assert as_json(plan)["A_per_rank"] == {"smallest": 3, "largest": 6}
    assert len(plan_warnings(plan)) == 1


def test_more_tokens_than_the_split_has_are_remarked(demo_file: Path) -> None:
    """A run over 4 Mi tokens of a split of 3 million sees it 1.40 times."""
    dataset = DatasetFacts(vocab_size=4096, train_tokens=3_000_000, val_tokens=30_000)
    plan = make_plan(resolved(demo_file), dataset)
    (warning,) = plan_warnings(plan)
    fields = warning.problem.fields

    assert (warning.problem.kind, fields["train"], fields["seen"]) == ("epochs", 3_000_000, 4_194_304)
    assert (warning.hint.kind, warning.hint.fields) == ("one_epoch", {"whole": 2_998_272})
    assert as_json(plan)["epochs"] == pytest.approx(1.398, abs=1e-3)


def test_the_13B_example() -> None:
    """12 bytes a parameter are 156 GB; the textbook's bf16 form is 130 GB, 2.03 GB from each of 64 ranks."""
    size = checkpoint_size(13 * 10**9, 64)

    assert size.total == 156 * 10**9
    assert size.textbook_total == 130 * 10**9
    assert format_bytes(size.textbook_per_rank) == "2.03 GB"


def test_a_fitting_plan_says_so_and_another_does_not(demo_file: Path) -> None:
    """The summary compares memory with the accelerator's."""
    small = make_plan(resolved(demo_file, "hardware.accelerator=H100-SXM"))
    large = make_plan(resolved(demo_file, "hardware.accelerator=H100-SXM", "model.n_layers=50000"))

    assert "  fits the 80.0 GB of H100-SXM" in summary(small)
    assert "does not fit the 80.0 GB of H100-SXM" in summary(large)


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (156 * 10**9, "156 GB"),
    ],
)
def test_bytes_have_three_digits(n_bytes: int, shown: str) -> None:
    """Prefixes are decimal, and rounding up changes the prefix rather than showing 1,000."""
    assert format_bytes(n_bytes) == shown


@pytest.mark.parametrize(
    ("hours", "shown"), [(1 / 3600, "1 seconds"), (0.5, "30 minutes"), (3, "3 hours"), (956, "39.8 days")]
)
def test_durations_have_the_unit_that_suits_them(hours: float, shown: str) -> None:
    """Seconds, minutes, hours or days."""
    assert show_hours(hours) == shown


def test_counts_are_short() -> None:
    """Parameters in K, M, B."""
    assert [show_count(count) for count in (0, 300, 124_439_808, 8_030_261_248)] == [
        "0",
        "300",
        "124 M",
        "8.03 B",
    ]


choices: dict[str, st.SearchStrategy[Any]] = {
    "T_tokens": st.integers(2**18, 2**62),
    "model.n_layers": st.integers(1, 2**16),
    "model.vocab_size": st.integers(1, 10**6),
    "model.d_ff": st.integers(1, 10**6),
    "model.dropout": st.sampled_from([0.0, 0.1]),
    "model.mlp": st.sampled_from(["swiglu", "gelu"]),
    "model.position": st.sampled_from(["rope", "learned", "alibi", "none"]),
    "batch.D": st.sampled_from([1, 2, 4, 8]),
    "precision": st.sampled_from(["fp32", "bf16"]),
    "activation_checkpointing": st.sampled_from(["none", "block"]),
    "hardware.accelerator": st.sampled_from(["H100-SXM", "V100-SXM2-32G", "H20", "B200"]),
    "hardware.assumed_mfu": st.floats(0.01, 1.0).map(lambda mfu: round(mfu, 3)),
}


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({}, optional=choices))
def test_any_sound_config_has_a_plan(demo_file: Path, drawn: dict[str, Any]) -> None:
    """No figure of any sound config is negative, NaN or infinite, and summary and explanation can be written."""
    plan = make_plan(resolved(demo_file, *(f"{key}={value}" for key, value in drawn.items())))
    figures = as_json(plan)

    numbers = [value for value in figures.values() if isinstance(value, int | float)]
    assert all(0 <= value < float("inf") for value in numbers)
    assert figures["GB_tok"] == figures["M"] * figures["mu_tok"]
    assert figures["tokens_seen"] <= figures["T_tokens"] < figures["tokens_seen"] + figures["GB_tok"]
    assert figures["FLOPs"] > figures["FLOPs_6NT"] > 0
    for text in (summary(plan), explanation(plan)):
        assert "None" not in text
        assert re.search(r"\b(nan|inf)\b", text) is None
