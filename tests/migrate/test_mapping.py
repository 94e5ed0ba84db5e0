"""What a script makes of tensors: values, moments, and what is read when."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from llmrun.core.parameter_groups import MOMENTS
from llmrun.launch.preflight import find_run_inputs
from llmrun.migrate.checkpoint import groups_of, write_state
from llmrun.migrate.numerics import digests_of, initial_value
from llmrun.migrate.tensors import as_float32
from llmrun.storage.checkpoint.layout import WORLD_MAX

UP = "model.layers.0.mlp.up_proj.weight"
NORM = "model.norm.weight"


def script(body: str) -> str:
    """A script that changes a copy of the old state."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return f"def migrate(old, new):\n    state = dict(old)\n{lines}    return state\n"


def all_of(mapped, name):
    """Parameter and moments."""
    return [mapped.values(name, slot) for slot in (None, *MOMENTS["adamw"])]


def test_a_tensor_under_another_name_takes_its_moments_along(migrator):
    """Two layers swapped: each has the other's values and moments."""
    swap = script(
        """
        for name in old:
            if "layers.0" in name:
                other = name.replace("layers.0", "layers.1")
                state[name], state[other] = old[other], old[name]
        """.replace("        ", "", 1).replace("\n        ", "\n")
    )
    mapped = migrator.mapping(swap)
    other = UP.replace("layers.0", "layers.1")

    for found, meant in zip(all_of(mapped, UP), all_of(migrator.mapping(script("pass")), other), strict=True):
        assert np.array_equal(found, meant)
    assert (mapped.initialised, mapped.mixed, mapped.without_moments, mapped.dropped) == ([], [], [], [])


def test_one_tensor_may_become_two_and_others_none(migrator):
    """A third layer that repeats the second; without tied embeddings the head begins as the table."""
    grown = script(
        """for name in new.missing(old):
    state[name] = old[name.replace("layers.2", "layers.1").replace("lm_head", "model.embed_tokens")]"""
    )
    mapped = migrator.mapping(grown, "model.n_layers=3", "model.tie_embeddings=false")

    assert np.array_equal(
        mapped.values("lm_head.weight", "exp_avg"), mapped.values("model.embed_tokens.weight", "exp_avg")
    )
    assert mapped.initialised == []

    fewer = script("for name in old:\n    if 'layers.1' in name: del state[name]")
    shrunk = migrator.mapping(fewer, "model.n_layers=1")
    assert [name.count("layers.1") for name in shrunk.dropped] == [1] * 9


def test_initial_values_are_those_of_a_run_from_that_config(migrator):
    """`new.init` draws from the stream of the config's seed, `new.zeros` is zeros; moments are zeros."""
    body = f"state['{UP}'] = new.init('{UP}')\nstate['{NORM}'] = new.zeros('{NORM}')"
    mapped = migrator.mapping(script(body), "seed=7")
    config = migrator.order("none", script(body)).config
    model = find_run_inputs(config, [Path.cwd()]).resolved.model

    assert np.array_equal(mapped.values(UP, None), initial_value(model, UP, 7))
    assert not np.array_equal(mapped.values(UP, None), initial_value(model, UP, 42))
    assert not any(values.any() for values in all_of(mapped, NORM))
    assert not mapped.values(UP, "exp_avg").any()
    assert mapped.initialised == [UP, NORM]


def test_a_state_for_muon_begins_with_a_momentum_of_zero(migrator):
    """Under Muon the matrices of blocks lose AdamW's moments, and are named; everything else keeps its own."""
    mapped = migrator.mapping(script("pass"), "optimizer.name=muon")
    assert mapped.without_moments == [name for name in mapped.new if "_proj." in name]
    assert not mapped.values(UP, "momentum_buffer").any()
    assert mapped.values(NORM, "exp_avg_sq").any()
    assert (mapped.new.moments[UP], mapped.new.moments[NORM]) == (MOMENTS["muon"], MOMENTS["adamw"])


def test_arithmetic_is_for_the_values_alone(migrator):
    """With moments=False the function never sees a moment, and the moments are zeros."""
    body = f"state['{NORM}'] = old['{NORM}'].apply(lambda w: w * 2 + 1, moments=False)"
    mapped, same = migrator.mapping(script(body)), migrator.mapping(script("pass"))
    values, *moments = all_of(mapped, NORM)

    assert np.array_equal(values, same.values(NORM, None) * 2 + 1)
    assert not any(moment.any() for moment in moments)
    assert mapped.without_moments == [NORM]


def test_functions_of_several_tensors_and_arrays_of_the_script(migrator):
    """`apply` takes more tensors; `new.array` makes one of numbers, as a copy."""
    body = (
        f"one = old['{NORM}']\n"
        f"state['{NORM}'] = one.apply(lambda a, b: (a + b) / 2, new.array([3.0] * 72), moments=False)"
    )
    mapped, same = migrator.mapping(script(body)), migrator.mapping(script("pass"))

    assert np.array_equal(mapped.values(NORM, None), (same.values(NORM, None) + np.float32(3)) / 2)
    assert mapped.mixed == [NORM]


def test_a_script_may_look_at_values_and_spoil_nothing(migrator):
    """`read()` gives a copy: changing it changes no tensor."""
    body = f"w = old['{NORM}'].read()\nassert w.any() and old['{NORM}'].dtype == 'F32'\nw[:] = 9"

    assert not (migrator.mapping(script(body)).values(NORM, None) == 9).any()


def test_nothing_is_read_before_it_is_written(migrator, monkeypatch):
    """Mapping by name reads no tensor; a value is made when its turn comes."""
    from llmrun.storage.checkpoint.reader import Checkpoint

    read, names = Checkpoint.read, []
    monkeypatch.setattr(
        Checkpoint, "read", lambda self, name, *rest: names.append(name) or read(self, name, *rest)
    )
    mapped = migrator.mapping(script(f"state['{UP}'] = old['{UP}'].apply(lambda w: w * 1)"))

    assert names == []
    mapped.values(UP, "exp_avg")
    assert names == [f"{UP}.exp_avg"]


def test_memory_holds_one_group(migrator, tmp_path):
    """A state of 11 MB in groups of 2 MB needs less than 4 MB at a time: a group, and a tensor that is made."""
    wide = """
def migrate(old, new):
    return {name: new.zeros(name).apply(lambda w: w + 1, moments=False) for name in new}
"""
    mapped = migrator.mapping(wide, "model.d_ff=1024", "model.n_layers=4")
    (tmp_path / "out").mkdir()
    digests_of([])  # its tables are not what is measured
    tracemalloc.start()
    written = write_state(tmp_path / "out", mapped, 6, digests_of, lambda *_: None, 2_000_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert written.world == 7
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.safetensors")) > 11_000_000
    assert peak_bytes < 4_000_000


@pytest.mark.parametrize(("limit", "groups"), [(1, 3), (12 * 50, 2), (12 * 70, 1), (10**12, 1)])
def test_groups(limit, groups):
    """Tensors in order, none cut, as many together as fit; never more groups than file names can number."""
    sizes = {"a": 12 * 20, "b": 12, "c": 12 * 49}
    found = groups_of(sizes, limit)

    assert [name for group in found for name in group] == list(sizes)
    assert len(found) == groups
    assert len(groups_of({str(n): 12 for n in range(3 * WORLD_MAX)}, 1)) <= WORLD_MAX


def test_values_of_other_types_become_float32():
    """BF16, F16 and F64 are converted by value; what is no float is refused."""
    half = np.array([1.5, -2.0], np.float16)
    bf16 = np.array([0x3FC0, 0xC000], np.uint16)

    for values, dtype in (
        (half, "F16"),
        (bf16, "BF16"),
        (half.astype("f8"), "F64"),
        (half.astype("f4"), "F32"),
    ):
        found = as_float32(values, dtype)
        assert found.dtype == np.float32
        assert found.tolist() == [1.5, -2.0]
    with pytest.raises(TypeError, match="I64"):
        as_float32(np.array([1]), "I64")


def test_the_script_in_the_document_does_what_it_says(migrator):
    """The block of docs/migration.md makes 3 layers of 2 and d_ff 64 of 43, moments along."""
    text = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    mapped = migrator.mapping(block, "model.n_layers=3", "model.d_ff=64")

    assert (len(mapped.initialised), len(mapped.mixed), mapped.dropped) == (9, 6, [])
    assert mapped.values(UP, "exp_avg")[:43].any()
    assert not mapped.values(UP, "exp_avg")[43:].any()
