"""Resolving: every derived field written out, from config, dataset and machine alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.config.load import LoadedConfig, load_config
from llmrun.config.resolve import (
    DatasetFacts,
    MachineFacts,
    Resolved,
    resolve,
    resolve_for_D,
    resolved_of,
)
from llmrun.config.schema import Config
from llmrun.errors import ConfigError, InputError, Problem

DATASET = DatasetFacts(vocab_size=4096, train_tokens=10**6, val_tokens=10**5)
CPU = MachineFacts(gpus=0)


def loaded(text: str, tmp_path: Path) -> LoadedConfig:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_config(path)


def config_of(**changes: object) -> LoadedConfig:
    return LoadedConfig(Config.model_validate(changes), "x.yaml")


def refused(loaded: LoadedConfig, dataset: DatasetFacts | None, machine: MachineFacts = CPU) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        resolve(loaded, dataset, machine, for_training=True)
    return list(caught.value.problems)


def keys(problems: list[Problem]) -> list[str | None]:
    return [problem.key for problem in problems]


def test_everything_derived_is_written_out() -> None:
    """The resolved config has no open field left, and batch and shape agree with it."""
    r = resolve(config_of(model={"n_heads": 4, "d_model": 96}), DATASET, MachineFacts(gpus=4))
    model, batch, hardware = r.config.model, r.config.batch, r.config.hardware

    assert (model.n_kv_heads, model.head_dim, model.d_ff, model.vocab_size) == (4, 24, 256, 4096)
    assert (batch.V, batch.D, batch.A) == (8, 4, 8)
    assert (r.batch.V, r.batch.D, r.batch.A, r.batch.M) == (8, 4, 8, 32)
    assert hardware.device == "cuda"
    assert (r.shape.head_dim, r.shape.d_ff, r.shape.vocab_size, r.shape.L_ctx) == (24, 256, 4096, 2048)


def test_inner_width_follows_the_kind_of_mlp() -> None:
    """4·d_model for gelu; 8/3·d_model rounded up to a multiple of 64 for swiglu; a stated one stays."""

    def d_ff(**model: object) -> int:
        return resolve(config_of(model={"d_model": 256, **model}), DATASET, CPU).shape.d_ff

    assert (d_ff(mlp="gelu"), d_ff(mlp="swiglu"), d_ff(mlp="swiglu", d_ff=688)) == (1024, 704, 688)


def test_decay_of_a_constant_schedule_is_written_out() -> None:
    """A tenth of the run, and less where the warm-up leaves less; other schedules have none."""

    def decay(**schedule: object) -> int | None:
        return resolve(config_of(T_tokens="1M", schedule=schedule), DATASET, CPU).config.schedule.decay_tokens

    assert decay(name="constant") == 100_000
    assert decay(name="constant", warmup_tokens=950_000) == 50_000
    assert decay(name="constant", decay_tokens=7) == 7
    assert decay(name="cosine") is None


@pytest.mark.parametrize(("stated", "gpus", "device"), [("auto", 0, "cpu"), ("auto", 8, "cuda"), ("cpu", 8, "cpu"), ("cuda", 0, "cuda")])  # fmt: skip
def test_device_is_settled(stated: str, gpus: int, device: str) -> None:
    """The value auto is cuda where there is a GPU; what is stated stays, as a plan for another machine."""
    r = resolve(config_of(hardware={"device": stated}), DATASET, MachineFacts(gpus))

    assert r.config.hardware.device == device


def test_V_does_not_depend_on_the_machine() -> None:
    """The lanes are the same on any number of GPUs; only D follows the machine."""
    found = [resolve(config_of(), DATASET, MachineFacts(gpus)).batch for gpus in range(20)]

    assert {batch.V for batch in found} == {8}
    assert [batch.D for batch in found] == [1, 1, 2, 2, 4, 4, 4, 4, *[8] * 12]


def test_a_cpu_run_does_not_count_gpus() -> None:
    """On a machine with GPUs, `device: cpu` defaults to one rank."""
    assert resolve(config_of(hardware={"device": "cpu"}), DATASET, MachineFacts(8)).batch.D == 1


def test_vocabulary_without_dataset(tmp_path: Path) -> None:
    """A plan needs vocab_size if there is no dataset; the hint names both ways out."""
    assert resolve(config_of(model={"vocab_size": 1000}), None, CPU).shape.vocab_size == 1000
    (problem,) = refused(loaded("seed: 1", tmp_path), None)
    assert (problem.key, str(problem.where)) == ("model.vocab_size", f"{tmp_path}/x.yaml")
    assert problem.hint is not None
    assert "`data.path`" in problem.hint
    assert "`--set model.vocab_size=" in problem.hint


def test_vocabulary_smaller_than_the_tokenizer(tmp_path: Path) -> None:
    """A stated vocab_size holds every token of the dataset; a larger one stays."""
    assert resolve(config_of(model={"vocab_size": 5000}), DATASET, CPU).shape.vocab_size == 5000
    (problem,) = refused(loaded("model: {vocab_size: 257}", tmp_path), DATASET)
    assert (problem.key, str(problem.where)) == ("model.vocab_size", f"{tmp_path}/x.yaml:1")
    assert problem.hint is not None
    assert "`--set model.vocab_size=4096`" in problem.hint


def test_training_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """Training with `device: cuda` is refused without a GPU; a plan is not."""
    (problem,) = refused(loaded("hardware: {device: cuda}", tmp_path), DATASET)
    assert (problem.key, str(problem.where)) == ("hardware.device", f"{tmp_path}/x.yaml:1")


def test_splits_hold_a_window(tmp_path: Path) -> None:
    """A split shorter than one window is named; the validation split only if it is used."""
    tiny = DatasetFacts(vocab_size=257, train_tokens=2048, val_tokens=100)
    problems = refused(loaded("batch: {L_ctx: 2Ki}", tmp_path), tiny)

    assert keys(problems) == ["batch.L_ctx", "batch.L_ctx"]
    assert ["training" in problems[0].message, "validation" in problems[1].message] == [True, True]
    assert "eval.every_steps=null" in (problems[1].hint or "")
    enough = DatasetFacts(vocab_size=257, train_tokens=2049, val_tokens=100)
    assert resolve(loaded("eval: {every_steps: null}", tmp_path), enough, CPU).batch.L_ctx == 2048


def test_stated_A_must_agree_with_the_default_D(tmp_path: Path) -> None:
    """A stated A is checked against the D of this machine too."""
    text = "batch: {A: 16}"
    assert resolve(loaded(text, tmp_path), DATASET, MachineFacts(2)).batch.A == 16
    (problem,) = refused(loaded(text, tmp_path), DATASET)
    assert (problem.key, str(problem.where)) == ("batch.A", f"{tmp_path}/x.yaml:1")
    assert "`--set batch.A=32`; `--set batch.D=2`" in (problem.hint or "")


def test_rules_hold_for_configs_made_in_code() -> None:
    """A config that never went through the loader is checked all the same."""
    assert keys(refused(config_of(batch={"gb_tok": 500_000}), DATASET)) == ["batch.GB_tok"]


@given(st.integers(1, 64), st.integers(1, 64))
def test_any_D_up_to_V_shares_a_run(V: int, D: int) -> None:
    """Every D from 1 to V is taken, A is whole or None, and nothing but D and A changes."""
    fresh = resolve(config_of(batch={"gb_tok": V * 3 * 2048, "mu_tok": 2048, "V": V, "D": 1}), DATASET, CPU)
    if D > V:
        with pytest.raises(InputError):
            resolve_for_D(fresh, D)
        return
    other = resolve_for_D(fresh, D)

    assert (other.batch.D, other.config.batch.D) == (D, D)
    assert other.batch.A == other.config.batch.A == (3 * V // D if 3 * V % D == 0 else None)
    assert resolve_for_D(other, 1) == fresh


def test_a_run_of_no_rank_is_refused() -> None:
    """D = 0 and D < 0 are no numbers of ranks."""
    fresh = resolve(config_of(), DATASET, CPU)
    for D in (0, -1):
        with pytest.raises(InputError):
            resolve_for_D(fresh, D)


def test_resolved_config_reads_back() -> None:
    """A worker builds the same Resolved out of the config's JSON."""
    fresh = resolve(config_of(batch={"D": 4}), DATASET, CPU)
    read = Config.model_validate_json(fresh.config.model_dump_json(by_alias=True))

    assert resolved_of(read, 4) == fresh
    assert resolved_of(read, 5) == resolve_for_D(fresh, 5)


def uneven() -> Resolved:
    return resolve(config_of(batch={"gb_tok": 24 * 2048, "mu_tok": 2048, "V": 8, "D": 6}), DATASET, CPU)


def test_uneven_lanes_are_allowed() -> None:
    """D that divides M but not V satisfies the identity (`plan` says what it costs)."""
    assert uneven().batch.A == 4
