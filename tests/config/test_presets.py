"""`model.preset`: shapes of published models that fill what a config leaves out."""

from pathlib import Path

import pytest

from llmrun.config.field_values import numeric_fields
from llmrun.config.load import load_config
from llmrun.config.presets import preset_table
from llmrun.config.resolve import MachineFacts, Resolved, resolve
from llmrun.core.model.parameters import count_parameters
from llmrun.errors import ConfigError

PARAMETERS = {
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "pythia-410m": 405_334_016,
    "pythia-12b": 11_846_072_320,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "bloom-560m": 559_214_592,
    "bloom-7.1b": 7_069_016_064,
    "bloom-176b": 176_247_271_424,
}
"""Elements of all tensors of the released checkpoints."""


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A config that says nothing."""
    path = tmp_path / "empty.yaml"
    path.write_text("{}", encoding="utf-8")
    return path


def resolved(path: Path, *overrides: str, for_training: bool = False) -> Resolved:
    """The config on a machine without a GPU."""
    return resolve(load_config(path, overrides), None, MachineFacts(gpus=0), for_training=for_training)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_the_parameters_of_the_released_model(empty: Path, name: str) -> None:
    """Every tensor of a published checkpoint is counted, to the last element."""
    assert count_parameters(resolved(empty, f"model.preset={name}").shape).N_params_total == PARAMETERS[name]


@pytest.mark.parametrize("name", preset_table())
def test_every_preset_resolves_and_is_sourced(empty: Path, name: str) -> None:
    """Each shape passes the rules of any config, has a source, and names what llmrun cannot train."""
    preset = preset_table()[name]
    found = resolved(empty, f"model.preset={name}")

    assert preset.source
    assert found.preset == name
    assert found.batch.L_ctx == preset.L_ctx
    assert preset.beyond is None or preset.beyond.described()
    assert found.shape.beyond == preset.beyond


def test_a_given_key_wins(empty: Path) -> None:
    """A preset fills only what the file and `--set` leave out."""
    empty.write_text("model: {preset: llama3-8b, n_layers: 16}\nbatch: {L_ctx: 4Ki}", encoding="utf-8")
    found = resolved(empty, "model.tie_embeddings=true")

    assert (found.shape.n_layers, found.shape.tie_embeddings, found.batch.L_ctx) == (16, True, 4096)
    assert (found.shape.d_model, found.shape.d_ff, found.shape.rope_theta) == (4096, 14336, 500_000.0)


def test_a_preset_by_option_stands_over_the_file(empty: Path) -> None:
    """`--set model.preset` replaces the shape of a file; keys of `--set` beside it win."""
    empty.write_text("model: {n_layers: 16, vocab_size: 512}\nbatch: {L_ctx: 4Ki, D: 2}", encoding="utf-8")
    found = resolved(empty, "model.preset=llama3-8b", "model.d_ff=1024")

    assert (found.shape.n_layers, found.shape.vocab_size, found.shape.d_ff) == (32, 128_256, 1024)
    assert (found.batch.L_ctx, found.batch.D) == (8192, 2)


def test_a_trainable_preset_is_the_experiment_of_its_shape(empty: Path, tmp_path: Path) -> None:
    """Naming gpt2-small and writing its keys out is one experiment: the same numeric fields, so one fingerprint."""
    written = tmp_path / "written.yaml"
    written.write_text(
        "model: {n_layers: 12, d_model: 768, n_heads: 12, d_ff: 3072, vocab_size: 50257, tie_embeddings: true,\n"
        "  mlp: gelu, norm: layernorm, position: learned, bias: true}\nbatch: {L_ctx: 1024}",
        encoding="utf-8",
    )
    named = resolved(empty, "model.preset=gpt2-small", for_training=True).config

    assert numeric_fields(named) == numeric_fields(resolved(written).config)
    assert "preset" not in numeric_fields(named)["model"]


@pytest.mark.parametrize("name", [name for name, preset in preset_table().items() if preset.beyond])
def test_what_cannot_be_trained_is_refused(empty: Path, name: str) -> None:
    """Training a preset for planning is refused at its place, with what the built-in model lacks."""
    with pytest.raises(ConfigError) as refusal:
        resolved(empty, f"model.preset={name}", for_training=True)

    (problem,) = refusal.value.problems
    assert problem.message.startswith(f"the preset {name} is for `llmrun plan` only: ")
    assert str(problem.where) == "--set model.preset"
