"""The optimizer's groups against the parameters of a model, and the defaults of Muon."""

from typing import Any

import pytest

from llmrun.config.load import LoadedConfig
from llmrun.config.optimizer_rules import complete_optimizer, nearest_parameters
from llmrun.config.resolve import MachineFacts, Resolved, resolve, training_spec
from llmrun.config.schema import Config, OptimizerConfig
from llmrun.errors import ConfigError

MODEL = {"n_layers": 2, "d_model": 64, "n_heads": 4, "vocab_size": 256, "norm": "layernorm", "bias": True}


def resolved(**optimizer: Any) -> Resolved:
    config = Config.model_validate({"model": MODEL, "optimizer": optimizer})
    return resolve(LoadedConfig(config, "x.yaml"), None, MachineFacts(0))


def problems(**optimizer: Any) -> list[tuple[str | None, str, str]]:
    """(key, message, hint) of each problem of a config."""
    with pytest.raises(ConfigError) as caught:
        resolved(**optimizer)
    return [(problem.key, problem.message, problem.hint or "") for problem in caught.value.problems]


def test_a_pattern_without_a_parameter_is_refused_with_the_nearest_names() -> None:
    """A misspelled pattern names the parameters that its last words resemble, one of each block."""
    ((key, message, hint),) = problems(groups=[{"match": "*.q_prj.weight"}])

    assert key == "optimizer.groups[0].match"
    assert "*.q_prj.weight" in message
    assert "model.layers.0.self_attn.q_proj.weight" in hint
    assert "layers.1" not in hint


def test_nearest_names_of_any_pattern() -> None:
    """For whole names, parts of names and plain nonsense there are names of the model, the likely one first."""
    names = list(resolved().model.parameters)

    assert nearest_parameters("model.embed_token.weight", names)[0] == "model.embed_tokens.weight"
    assert nearest_parameters("*.biass", names)[0].endswith(".bias")
    assert len(nearest_parameters("*", names)) == len(nearest_parameters("zzz", names)) == 3


def test_a_group_that_comes_too_late_is_refused() -> None:
    """First match wins: a group whose parameters all belong to earlier ones has no effect, and is named with them."""
    ((key, _, hint),) = problems(groups=[{"match": "*.bias"}, {"match": "*"}, {"match": "*q_proj*"}])

    assert key == "optimizer.groups[2].match"
    assert "groups[0]" in hint
    assert "groups[1]" in hint


def test_muon_takes_matrices_only_and_needs_one() -> None:
    """A group that gives Muon a vector is refused with its name and shape; so is Muon without any matrix."""
    ((key, message, _),) = problems(name="muon", groups=[{"match": "*norm*", "optimizer": "muon"}])
    assert key == "optimizer.groups[0].optimizer"
    assert "layernorm" in message
    assert "[64]" in message

    ((key, _, _),) = problems(name="muon", groups=[{"match": "*", "optimizer": "adamw"}])
    assert key == "optimizer.name"


def test_groups_of_a_config() -> None:
    """Defaults come first, then groups in order, AdamW before Muon; decay and optimizer follow the group or the default."""
    found = training_spec(
        resolved(
            name="muon",
            weight_decay=0.2,
            groups=[
                {"match": "*.bias", "weight_decay": 0.0},
                {"match": "model.embed_tokens.weight", "optimizer": "muon", "lr_scale": 2.0},
                {"match": "*.1.mlp.up_proj.*", "optimizer": "adamw"},
            ],
        )
    ).groups
    summary = [(g.optimizer, g.weight_decay, g.lr_scale, len(g.names)) for g in found]

    assert summary == [
        ("adamw", 0.0, 1.0, 5),  # norms
        ("adamw", 0.0, 1.0, 5 + 2 * 7),  # biases, also of up_proj: first match wins
        ("adamw", 0.2, 1.0, 1),  # up_proj.weight of block 1
        ("muon", 0.1, 1.0, 13),  # the other matrices of blocks
        ("muon", 0.1, 2.0, 1),  # the token table
    ]
    assert sorted(name for g in found for name in g.names) == sorted(resolved().model.parameters)


def test_defaults_of_muon() -> None:
    """Muon's settings are filled in for Muon alone; with match_rms_adamw its rate is AdamW's."""
    assert complete_optimizer(OptimizerConfig()) == OptimizerConfig()
    plain = complete_optimizer(OptimizerConfig(name="muon", lr=1e-3)).muon
    assert (plain.lr, plain.momentum, plain.nesterov, plain.ns_steps) == (0.02, 0.95, True, 5)
    assert (plain.weight_decay, plain.adjust_lr_fn) == (0.1, "original")
    rms = OptimizerConfig.model_validate(
        {"name": "muon", "lr": 1e-3, "muon": {"adjust_lr_fn": "match_rms_adamw", "nesterov": False}}
    )
    assert (complete_optimizer(rms).muon.lr, complete_optimizer(rms).muon.nesterov) == (1e-3, False)
