"""State that a model keeps beside its parameters is refused with its name; buffers and frozen parameters are kept."""

import json

import pytest

from own_model.project import CONFIG, MODEL, PARTS
from warm.bits import assert_equal_runs, tensors_of

FORWARD = "    def forward(self, x):\n"
INIT = "        self.norm = nn.LayerNorm(width)\n"


@pytest.fixture
def project(driver, dataset):
    """A function that writes a project whose blocks have further lines, and returns its driver."""

    def written(in_forward: str = "", in_init: str = "", at_top: str = "", in_model: str = ""):
        place = driver.directory / "project"
        place.mkdir(exist_ok=True)
        model = MODEL.replace("        self.head = nn", f"{in_model}        self.head = nn")
        (place / "model.py").write_text(model)
        parts = PARTS.replace("\nclass Block", f"\n{at_top}\nclass Block")
        (place / "parts.py").write_text(
            parts.replace(FORWARD, FORWARD + in_forward).replace(INIT, INIT + in_init)
        )
        driver.config = place / "config.yaml"
        driver.config.write_text(CONFIG.replace("DATA", str(dataset)))
        return driver

    return written


@pytest.mark.parametrize(
    ("in_forward", "in_init", "at_top", "named"),
    [
        ("        self.calls += 1\n", "        self.calls = 0\n", "", "blocks.0.calls"),
        ("        self.cache = x.detach()\n", "        self.cache = None\n", "", "blocks.0.cache"),
        ("        self.seen.append(1)\n", "        self.seen = []\n", "", "blocks.0.seen"),
        (
            "        self.mean.mul_(0.9).add_(x.detach().mean())\n",
            "        self.register_buffer('mean', torch.zeros(()))\n",
            "",
            "blocks.0.mean",
        ),
        ("        COUNT[0] += 1\n", "", "COUNT = [0]\n", "parts.COUNT[0]"),
        ("        next(NUMBERS)\n", "", "import itertools\nNUMBERS = itertools.count()\n", "parts.NUMBERS"),
        ("        Block.total += 1\n", "        Block.total = 0\n", "", "parts.Block.total"),
    ],
)
def test_hidden_state_is_refused(project, pool, in_forward, in_init, at_top, named):
    """A counter, a cache, a list, running statistics, a global and a class attribute: each is named after step 1."""
    end = project(in_forward, in_init, at_top).train(pool, "one", until=3).end
    assert end.why == "failed"
    assert end.error.exit_code == 2
    assert named in end.error.message


def test_buffers_and_frozen_parameters_stay_as_they_were(project, pool):
    """A persistent buffer is recorded; a frozen parameter keeps its bytes, for D = 1, and D = 2 with `shard`."""
    driver = project(
        "        x = self.fixed(x) + self.noise[: x.shape[1], None]\n",
        "        self.register_buffer('noise', torch.randn(32))\n"
        "        self.fixed = nn.Linear(width, width).requires_grad_(False)\n",
        in_model="        self.unused = nn.Linear(3, 3)\n",
    )
    first = driver.train(pool, "one", "checkpoint.every_steps=1", "checkpoint.keep_last=16")
    assert first.end.why == "finished"
    warned = "\n".join(first.end.warnings)
    assert "unused.weight" in warned
    assert "table.weight" not in warned
    assert any("blocks.0.fixed.weight" in line for line in driver.said)
    started, ended = tensors_of(driver.run("one"), 1), tensors_of(driver.run("one"), 16)
    frozen = {name for name in started if "fixed" in name and "exp_avg" not in name}
    assert len(frozen) == 4
    assert {name for name in frozen if started[name] != ended[name]} == set()
    assert started["table.weight"] != ended["table.weight"]
    trainer = json.loads((driver.run("one").checkpoints / "step-00000016" / "trainer.json").read_text())
    assert set(trainer["buffers"]) == {"blocks.0.noise", "blocks.1.noise"}

    driver.train(pool, "two", "batch.D=2", "strategy=shard", until=9)
    assert driver.resume(pool, "two", D=2).end.why == "finished"
    assert_equal_runs(driver.run("one"), driver.run("two"), 16)


def test_an_error_in_the_forward_pass_is_the_users(project, pool):
    """An exception of the model's forward pass ends with the user's lines and exit code 2."""
    end = project("        [][1]\n").train(pool, "one", until=2).end
    assert end.error.exit_code == 2
    assert "IndexError" in end.error.message
    assert any("parts.py" in line for line in end.error.caused_by)
    other = project("        x = x * float('nan')\n").train(pool, "two", until=2).end
    assert other.error.exit_code == 4
    assert "step 1" in other.error.message


def test_an_operation_without_a_deterministic_kernel_is_named(project, pool):
    """An operation that torch refuses in deterministic mode is shown with the module's line."""
    line = "        x = x + torch.zeros(3, device=x.device).put_(torch.tensor([0]), torch.ones(1), accumulate=False).sum()\n"
    end = project(line).train(pool, "one", until=2).end
    assert end.error.exit_code == 4
    assert any("parts.py" in shown for shown in end.error.caused_by)
