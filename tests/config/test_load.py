"""Loading: the settled example, places and spellings, overrides, and that nothing else than refusal can happen."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrun.config.keys import leaves
from llmrun.config.load import LoadedConfig, load_config
from llmrun.config.schema import Config
from llmrun.errors import ConfigError, InputError, Place

EXAMPLE = Path(__file__).with_name("contract_example.yaml")
CONFIGS = Path(__file__).parents[2] / "configs"


def load(directory: Path, text: str, *overrides: str) -> LoadedConfig:
    path = directory / "x.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def problems(directory: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, text, *overrides)
    return [problem.message for problem in caught.value.problems]


def test_the_settled_example_loads() -> None:
    """The config of the contract, word for word, gives the values that it shows."""
    config = load_config(EXAMPLE).config

    assert config.T_tokens == 4 * 2**20
    assert (config.batch.gb_tok, config.batch.mu_tok, config.batch.L_ctx) == (16384, 2048, 256)
    assert (config.batch.D, config.batch.V, config.batch.A) == (2, 8, None)
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.schedule.warmup_tokens == 256 * 1024
    assert config.checkpoint.keep_every_steps is None
    assert config.hardware.yuan_per_GPU_hour == 18.0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_config_loads(path: Path) -> None:
    """Each config of the repository is sound."""
    assert load_config(path).config.name


def test_everything_has_a_default(tmp_path: Path) -> None:
    """Every field may be left out."""
    assert load(tmp_path, "{}\n").config == Config()


@pytest.mark.parametrize("name", ["\u03bc_tok", "\u00b5_tok", "mu_tok", "micro_tok"])
def test_every_spelling_of_mu_tok_is_one_key(tmp_path: Path, name: str) -> None:
    """Greek mu, the micro sign and both ASCII spellings mean the same, in the file and in an override."""
    in_file = load(tmp_path, f"batch: {{{name}: 8Ki}}\n")
    in_option = load(tmp_path, "batch: {mu_tok: 16Ki}\n", f"batch.{name}=8Ki")

    assert in_file.config.batch.mu_tok == in_option.config.batch.mu_tok == 8192
    assert in_file.spelled["batch.mu_tok"] == in_option.spelled["batch.mu_tok"] == f"batch.{name}"


def test_locations_are_those_of_the_values_that_count(tmp_path: Path) -> None:
    """A location is file and line, or the option that came over it."""
    loaded = load(tmp_path, "seed: 1\nbatch:\n  GB_tok: 64Ki\n  D: 1\n", "batch.D=2", "optimizer.lr=1e-3")

    assert loaded.locations == {
        "seed": Place(f"{tmp_path}/x.yaml", 1),
        "batch.gb_tok": Place(f"{tmp_path}/x.yaml", 3),
        "batch.D": Place(option="--set batch.D"),
        "optimizer.lr": Place(option="--set optimizer.lr"),
    }


def test_override_replaces_a_wrong_value(tmp_path: Path) -> None:
    """A wrong value in the file is no problem where an option replaces it."""
    assert load(tmp_path, "optimizer: {lr: fast}\n", "optimizer.lr=1e-3").config.optimizer.lr == 1e-3


def test_last_override_counts(tmp_path: Path) -> None:
    """Of two options for one key, in whatever spelling, the last one counts."""
    assert load(tmp_path, "{}", "batch.mu_tok=8Ki", "batch.μ_tok=4Ki").config.batch.mu_tok == 4096


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
        ("optimizer.grad_clip=null", "optimizer.grad_clip", None),
        ("data.path=runs/a=b", "data.path", "runs/a=b"),
        ('data.path="1"', "data.path", "1"),
        ("model.bias=true", "model.bias", True),
        ("hardware.PUE= 2 ", "hardware.PUE", 2.0),
    ],
)
def test_override_is_read_as_in_the_file(tmp_path: Path, override: str, key: str, value: object) -> None:
    """Values of options follow the rules of the file; the first `=` ends the key."""
    section, name = key.split(".")
    config = load(tmp_path, "{}", override).config

    assert getattr(getattr(config, section), name) == value


def test_rules_run_beside_wrong_fields(tmp_path: Path) -> None:
    """A wrong learning rate does not hide that the batch does not divide, nor the other way round."""
    found = problems(tmp_path, "batch: {GB_tok: 500K}\noptimizer: {lr: 0}\n")

    assert [text.split(" ")[0] for text in found] == ["GB_tok", "optimizer.lr"]


def test_rules_do_not_judge_what_is_unknown(tmp_path: Path) -> None:
    """A rule is silent where a value that it reads is wrong or misspelled: its default says nothing."""
    assert len(problems(tmp_path, "batch: {GB_tok: 500K, mu_tok: x}\n")) == 1
    assert len(problems(tmp_path, "batch: {GB_tok: 500K, mu_tokk: 1K}\n")) == 1
    assert len(problems(tmp_path, "batch: {GB_tok: 500K, mu_tok: 1K, μ_tok: 2K}\n")) == 1
    assert len(problems(tmp_path, "T_tokens: 1K\nbatch: null\n")) == 1


def test_floats_do_not_round_quantities(tmp_path: Path) -> None:
    """A quantity keeps the digits that a float would lose."""
    (message,) = problems(tmp_path, "T_tokens: 9007199254740993.5\n")
    assert message.endswith("got 9007199254740993.5")
    assert load(tmp_path, "T_tokens: 9007199254740993.0\n").config.T_tokens == 2**53 + 1


def test_error_is_json_too(tmp_path: Path) -> None:
    """The problems are there one by one for a program."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "seed: x\nT_tokens: y\n")

    report = caught.value.as_json()
    assert report["exit_code"] == 2
    assert [(p["key"], p["where"]["file"], p["where"]["line"]) for p in report["problems"]] == [
        ("seed", f"{tmp_path}/x.yaml", 1),
        ("T_tokens", f"{tmp_path}/x.yaml", 2),
    ]


ODD_VALUES = st.sampled_from(
    [None, True, False, 0, -1, 1, 2**63, 2**200, 0.0, -1.5, 1e308, float("nan"), float("inf"), "", "x", "1Ki", "0.3", [], [1], [0.9, "x"], {}, {"a": 1}]
)  # fmt: skip
SHOWN = sorted(leaf.shown for leaf in leaves().values())


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(SHOWN), ODD_VALUES | st.integers(-(2**64), 2**64), max_size=8))
def test_any_value_anywhere_is_taken_or_explained(tmp_path_factory: Any, values: dict[str, Any]) -> None:
    """Whatever stands at whatever key, the config loads or every problem has a place and words of its own."""
    directory = tmp_path_factory.getbasetemp()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value

    with contextlib.suppress(InputError):
        loaded = load(directory, yaml.safe_dump(nested, allow_unicode=True))
        assert loaded.locations.keys() == loaded.spelled.keys()
    try_each = [f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in values.items()]
    with contextlib.suppress(InputError):
        load(directory, "{}", *try_each)
