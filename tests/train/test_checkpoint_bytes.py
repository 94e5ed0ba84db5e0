"""Planned bytes of checkpoints against the files that real runs write."""

import pytest

from llmrun.config.resolve import resolved_of, training_spec
from llmrun.config.schema import Config
from llmrun.launch.forecasting import directory_bytes
from llmrun.plan.checkpoint_size import checkpoint_bytes, metadata_bytes
from llmrun.plan.plan import size_of
from llmrun.run.record import read_record
from llmrun.storage.checkpoint.safetensors import read_header

FORMS = {
    "tied": (),
    "untied": ("model.tie_embeddings=false", "model.n_kv_heads=4"),
    "gpt": ("model.mlp=gelu", "model.norm=layernorm", "model.bias=true", "model.position=learned"),
    "heads": ("model.qk_norm=true", "model.qkv_bias=true", "model.head_dim=24", "model.position=alibi"),
    "two ranks": ("batch.D=2", "model.n_layers=3"),
    "four ranks": ("batch.D=4", "model.n_layers=6", "model.tie_embeddings=false"),
    "seven ranks": ("batch.D=7", "batch.V=7", "batch.GB_tok=448"),
    "muon": ("optimizer.name=muon", "batch.D=2", "model.bias=true"),
    "sharded": ("batch.D=2", "strategy=shard", "model.d_model=72"),
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_to_the_byte_headers_and_json_to_one_percent(driver, pool, form: str) -> None:
    """A real run's checkpoint: parameters and payload exact, what is around them within 1 % of itself."""
    driver.train(pool, "run", "eval.every_steps=null", *FORMS[form], until=1)
    run = driver.run("run")
    record = read_record(run.record_file)
    resolved = resolved_of(Config.model_validate(record.config), record.segments[0].D)
    directory = run.checkpoints / "step-00000001"
    headers = {path: read_header(path) for path in directory.glob("*-of-*.safetensors")}
    payload = sum(entry.stop - entry.start for header in headers.values() for entry in header.values())
    elements = sum(
        (entry.stop - entry.start) // 4
        for path, header in headers.items()
        if path.name.startswith("model-")
        for entry in header.values()
    )
    around = directory_bytes(directory) - payload
    model, D, strategy = resolved.model, resolved.batch.D, resolved.config.strategy

    assert elements == model.n_parameters
    groups = training_spec(resolved).groups
    metadata = metadata_bytes(model.parameters, groups, D, strategy)
    assert payload == size_of(resolved).total
    assert metadata == pytest.approx(around, rel=0.01)
    assert checkpoint_bytes(model.parameters, groups, D, strategy) == payload + metadata
