"""A model of the user's own trains under the promise: the same bits for every D, across kills and resumes."""

from pathlib import Path

import pytest

from llmrun.errors import RefusedError
from own_model.project import PARTS
from warm.bits import assert_equal_runs
from warm.pool import dying


def test_the_same_bits_for_every_D_and_across_a_kill(own, pool, server):
    """D = 1 and D = 2 give equal bits, and a run that is killed and resumed on another D too."""
    assert own.train(pool, "one").end.why == "finished"
    assert own.train(pool, "two", "batch.D=2").end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("two"), 16)

    own.train(dying(server, 7), "killed", "batch.D=2")
    assert own.resume(pool, "killed", D=1).end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("killed"), 16)


def test_a_changed_module_is_refused(own, pool):
    """`resume` refuses a module that was changed, with its name and a diff, and goes on if it is allowed."""
    own.train(pool, "one", until=3)
    parts = Path(own.directory / "project" / "parts.py")
    parts.write_text(PARTS.replace("torch.tanh", "torch.sin"))
    with pytest.raises(RefusedError, match=r"parts\.py") as refused:
        own.resume(pool, "one")
    lines = refused.value.caused_by
    assert any(line.startswith("-") and "torch.tanh" in line for line in lines)
    assert any(line.startswith("+") and "torch.sin" in line for line in lines)
    assert own.resume(pool, "one", allow=("code",)).end.why == "finished"


def test_shard_and_recomputed_blocks_give_the_same_bits(own, pool, server):
    """`shard` at D = 2, with recomputed blocks, equals `replicate` at D = 1; killed and resumed too."""
    own.train(pool, "one")
    own.train(pool, "sharded", "batch.D=2", "strategy=shard")
    assert_equal_runs(own.run("one"), own.run("sharded"), 16)
    recomputing = ("strategy=shard", "activation_checkpointing=block")
    own.train(dying(server, 7), "killed", "batch.D=2", *recomputing)
    assert own.resume(pool, "killed", D=2).end.why == "finished"
    assert_equal_runs(own.run("one"), own.run("killed"), 16)
    own.train(pool, "recomputed", "activation_checkpointing=block")
    assert_equal_runs(own.run("one"), own.run("recomputed"), 16)
