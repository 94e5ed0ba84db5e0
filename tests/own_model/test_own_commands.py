"""Every command works on a model of the user's own, imported from its own directory and from nowhere else."""

import json
import sys

import pytest

from llmrun.cli.app import run
from llmrun.config.load import load_config
from llmrun.config.yaml_writer import dump_yaml
from llmrun.errors import ConfigError, InputError
from llmrun.launch import torchrun
from own_model.project import MODEL
from warm.bits import chain_of, tensors_of

SCRIPT = """
def migrate(old, new):
    state = {name: old[name] for name in new if name in old and old[name].shape == new[name]}
    return {**state, **{name: new.init(name) for name in new if name not in state}}
"""


@pytest.fixture
def commands(pool, monkeypatch):
    """A function that runs a command with warm workers, and returns its exit code."""
    monkeypatch.setattr(torchrun, "TorchrunBackend", lambda: pool)

    def run_command(*words):
        path = list(sys.path)
        try:
            return run([str(word) for word in words])
        finally:  # what a command imports is gone when its process ends
            sys.path[:] = path
            for name in ("model", "parts"):
                sys.modules.pop(name, None)

    return run_command


@pytest.mark.slow
def test_sample_replay_and_migrate(own, pool, commands, capsys):
    """Text from a checkpoint, steps executed again, and a new run with two more blocks."""
    own.train(pool, "one")
    path = own.run("one").path
    assert commands("sample", path, "--prompt", "The", "--tokens", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("The")
    assert commands("replay", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True

    wider = own.directory / "project" / "wider.yaml"
    wider.write_text(own.config.read_text().replace("{width: 48,", "{width: 48, layers: 4,"))
    script = own.directory / "map.py"
    script.write_text(SCRIPT)
    out = own.directory / "runs" / "wider"
    words = ("migrate", path / "checkpoints" / "step-00000015", "--config", wider, "--script", script)
    assert commands(*words, "--out", out) == 0
    assert own.resume(pool, "wider").end.why == "finished"
    migrated = tensors_of(own.run("wider"), 16)
    assert "blocks.3.linear.weight" in migrated


def test_a_file_of_the_working_directory_shadows_nothing(own, pool, monkeypatch):
    """A random.py, a torch.py and a parts.py in the working directory change no bit, and neither does the directory."""
    own.train(pool, "one")
    elsewhere = own.directory / "elsewhere"
    elsewhere.mkdir()
    for name in ("random", "torch", "parts", "model", "types"):
        (elsewhere / f"{name}.py").write_text("raise RuntimeError('imported from the working directory')\n")
    monkeypatch.chdir(elsewhere)
    own.train(pool, "two")
    assert chain_of(own.run("one")) == chain_of(own.run("two"))


def test_a_file_beside_the_config_shadows_no_installed_module(own, pool):
    """A random.py beside the config is not imported, and named; a factory in one of these names is refused."""
    (own.directory / "project" / "random.py").write_text("raise RuntimeError('imported')\n")
    own.train(pool, "one", until=1)
    assert any("random.py" in line for line in own.said)
    own.config.write_text(own.config.read_text().replace("model:small", "random:small"))
    with pytest.raises(InputError, match="random"):
        own.train(pool, "two", until=1)


def test_a_moved_project_is_named_and_can_be_given(own, pool):
    """A resume imports from the recorded directory; if that is gone it is named, and another one can be given."""
    own.train(pool, "one", until=3)
    project = own.directory / "project"
    project.rename(own.directory / "moved")
    with pytest.raises(InputError, match="import_root"):
        own.resume(pool, "one")
    assert own.resume(pool, "one", f"model.import_root={own.directory / 'moved'}").end.why == "finished"


def test_config_of_a_factory(own):
    """Entries of args are set one by one; fields of the built-in model and args without a factory are refused."""
    loaded = load_config(own.config, ["model.args.layers=3", "model.args.dropout=0.0"])
    assert loaded.config.model.args == {"width": 48, "dropout": 0.0, "layers": 3}
    assert loaded.config.model.import_root == str(own.config.parent)
    again = own.config.with_name("again.yaml")
    again.write_text(dump_yaml(loaded.config))
    assert load_config(again).config == loaded.config
    for override in (
        "model.n_layers=3",
        "model.factory=model",
        "model.args.width=.nan",
        "model.import_root=''",
    ):
        with pytest.raises(ConfigError):
            load_config(own.config, [override])
    own.config.write_text("model: {args: {width: 3}}\n")
    with pytest.raises(ConfigError, match=r"requires model\.factory"):
        load_config(own.config)


def test_wrong_arguments_end_before_a_run_is_made(own, commands, capsys):
    """`plan` and `train` name a wrong argument with exit code 2; no run is made."""
    for command in ("plan", "train"):
        assert commands(command, own.config, "--set", "model.args.widht=3") == 2
        shown = capsys.readouterr().err
        assert "did you mean `width`" in shown
        assert "Traceback" not in shown
    assert not list(own.directory.glob("**/run.json"))


def test_shard_refuses_what_it_cannot_cut(own, pool):
    """A parameter without dimensions, and one that two blocks share, are named; `replicate` trains them."""
    source = own.directory / "project" / "model.py"
    scalar = MODEL.replace(
        "        self.head = nn",
        "        self.gain = nn.Parameter(torch.ones(()))\n        self.head = nn",
        1,
    )
    source.write_text(scalar.replace("return self.head(x)", "return self.head(x) * self.gain"))
    sharded = ("batch.D=2", "strategy=shard")
    with pytest.raises(InputError, match="gain"):
        own.train(pool, "one", *sharded, until=1)
    assert own.train(pool, "two", "batch.D=2", until=1).end.why == "reached"
    shared = "        self.blocks[1].linear.weight = self.blocks[0].linear.weight\n        self.head = nn"
    source.write_text(MODEL.replace("        self.head = nn", shared, 1))
    with pytest.raises(InputError, match="linear"):
        own.train(pool, "three", *sharded, until=1)
    assert own.train(pool, "four", "batch.D=2", until=1).end.why == "reached"
