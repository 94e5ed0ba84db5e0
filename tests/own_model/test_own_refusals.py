"""A factory that does not give a model that can be trained is refused, each with one short error."""

import json
from itertools import count

import pytest
import torch

from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.facts import FactoryCall
from llmrun.core.model.foreign import read_facts
from llmrun.errors import InputError

_NUMBER = count()

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, vocab_size, width=8):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size)
    def forward(self, tokens):
        return self.head(self.table(tokens[:, :-1]))

def make(vocab_size: int, width: int = 8):
    return Net(vocab_size, width)
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """A function that writes a module and returns the call of its function `make`."""

    def written(source: str = HEAD, args=None, name: str = "make") -> FactoryCall:
        module = f"own_model_{next(_NUMBER)}"
        (tmp_path / f"{module}.py").write_text(source)
        return FactoryCall(f"{module}:{name}", args or {}, vocab_size=16, L_ctx=4, seed=1)

    monkeypatch.syspath_prepend(tmp_path)
    return written


def refused(call: FactoryCall) -> InputError:
    """The error of reading a model's facts."""
    with pytest.raises(InputError) as found:
        read_facts(call)
    assert type(found.value) is InputError
    return found.value


def run_forward(call: FactoryCall) -> tuple[torch.Tensor, int]:
    """The loss of one micro-batch of two sequences."""
    spec = FactorySpec(call)
    model = spec.build(recompute_blocks=False)
    for name, parameter in list(model.named_parameters()):
        filled = torch.nn.Parameter(torch.empty(parameter.shape))
        spec.initialise(name, filled, call.seed)
        holder, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(holder), attribute, filled)
    return model(torch.arange(10).view(2, 5))


def test_no_such_module_and_no_such_function(call):
    """A module or function that does not exist is named, at the config key."""
    missing = FactoryCall("no_such_module_here:make", {}, 16, 4, 1)
    error = refused(missing)
    assert "no_such_module_here" in error.message
    assert error.where.key == "model.factory"
    assert "other" in refused(call(name="other")).message


def test_an_error_in_the_users_module_shows_its_own_lines(call):
    """An exception at import or in the constructor is shown with the user's lines, none of llmrun's."""
    at_import = call("value = 1\nraise RuntimeError('broken here')\n")
    error = refused(at_import)
    assert "broken here" in error.message
    assert error.where.file.endswith(".py")
    assert error.where.line == 2
    lines = [*error.caused_by]
    assert lines
    assert not any("llmrun/core" in line or "importlib" in line for line in lines)
    inside = refused(call(HEAD.replace("super().__init__()", "super().__init__(); [][3]")))
    assert "IndexError" in inside.message
    assert "in __init__" in inside.caused_by[-1]
    missing = refused(call("import no_such_package_of_theirs\n"))
    assert "no_such_package_of_theirs" in missing.message
    assert missing.where.line == 1
    syntax = refused(call("def make(:\n"))
    assert syntax.where.line == 1
    assert "SystemExit" in refused(call("raise SystemExit(3)\n")).message


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("make = 3\n", "int"),
        ("def make():\n    return 'text'\n", "str"),
        ("def make():\n    return None\n", "None"),
        ("from torch import nn\ndef make():\n    return nn.ReLU()\n", "parameters"),
        ("from torch import nn\ndef make():\n    return nn.Linear(2, 2).double()\n", "weight is float64"),
        ("from torch import nn\ndef make():\n    return nn.LazyLinear(3)\n", "lazy"),
        ("from torch import nn\ndef make():\n    return nn.Linear(0, 2)\n", "weight"),
        (
            "from torch import nn\ndef make():\n    return nn.Linear(2, 2).requires_grad_(False)\n",
            "gradients",
        ),
        (HEAD + "\nNet.llmrun_blocks = ['table', 'nothing']\n", "nothing"),
        (HEAD + "\nNet.llmrun_blocks = 'table'\n", "llmrun_blocks"),
        (HEAD + "\nNet.llmrun_blocks = ['head', 'head']\n", "llmrun_blocks"),
    ],
)
def test_what_is_no_model_is_refused(call, source, named):
    """What is not callable, returns something else, or has parameters that cannot be trained."""
    assert named in refused(call(source)).message


def test_arguments_are_checked_against_the_signature(call):
    """Unknown, missing and wrongly typed arguments are all named, the unknown one with the nearest name."""
    source = HEAD + (
        "\nfrom typing import Literal, Optional\n"
        "def typed(vocab_size: int, width: int, rate: float, kind: Literal['a', 'b'], names: list[str],\n"
        "          depth: Optional[int] = None, flag: bool = False, *, L_ctx): return Net(vocab_size, width)\n"
    )
    good = {"width": 8, "rate": 1, "kind": "a", "names": ["x"]}
    assert read_facts(call(source, good, "typed")).n_parameters == 16 * 8 + 8 * 16 + 16
    bad = {"widht": 8, "rate": "1", "kind": "c", "names": [1], "depth": 1.5, "flag": 1}
    error = refused(call(source, bad, "typed"))
    text = "\n".join(error.caused_by)
    assert len(error.caused_by) == 7
    assert "did you mean `width`" in text
    for name in ("widht", "missing argument model.args.width", "rate", "kind", "names", "depth", "flag"):
        assert name in text
    assert "unknown argument model.args.wide" in refused(call(HEAD, {"wide": 3})).message
    assert read_facts(call(HEAD, {"vocab_size": 32})).parameters["table.weight"] == (32, 8)


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ("self.head(self.table(tokens))", "shape"),
        ("self.head(self.table(tokens[:, :-1]))[..., :5]", "shape"),
        ("self.head(self.table(tokens[:, :-1])).mean()", "shape"),
        ("None", "None"),
        ("{'logits': 1}", "dict"),
        ("(self.head(self.table(tokens)).sum(), 0)", "int"),
        ("(self.head(self.table(tokens)).sum().double(), 3)", "float64"),
        ("(self.head(self.table(tokens)).sum(), torch.tensor(3))", "int64"),
    ],
)
def test_other_outputs_are_refused(call, returned, named):
    """A forward pass that returns neither logits nor a loss sum is refused with what it returned."""
    source = HEAD.replace("return self.head(self.table(tokens[:, :-1]))", f"return {returned}")
    with pytest.raises(InputError, match=named):
        run_forward(call(source))


def test_logits_and_a_loss_sum_give_the_same_loss(call):
    """Logits are turned into the summed cross entropy that the built-in model computes."""
    by_hand = HEAD.replace(
        "return self.head(self.table(tokens[:, :-1]))",
        "logits = self.head(self.table(tokens[:, :-1]))\n"
        "        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction='sum')\n"
        "        return loss, 8",
    )
    loss, n = run_forward(call())
    other, m = run_forward(call(by_hand))
    assert (n, m) == (8, 8)
    assert torch.equal(loss, other)


def test_facts_of_ties_blocks_buffers_and_tables(call):
    """Tied names, blocks, buffers, frozen parameters and tables are read from the constructed module."""
    source = HEAD + (
        "\nclass Part(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Linear(8, 8)\n"
        "        self.register_buffer('kept', torch.zeros(3))\n"
        "        self.register_buffer('made', torch.ones(2), persistent=False)\n"
        "def tied(vocab_size):\n"
        "    net = Net(vocab_size)\n"
        "    net.head.weight = net.table.weight\n"
        "    net.short = nn.ModuleList([nn.ReLU(), nn.ReLU()])\n"
        "    net.parts = nn.ModuleList(Part() for _ in range(3))\n"
        "    net.parts[1].inner.bias.requires_grad_(False)\n"
        "    return net\n"
    )
    facts = read_facts(call(source, name="tied"))
    assert facts.tied == {"head.weight": "table.weight"}
    assert facts.blocks == ("parts.0", "parts.1", "parts.2")
    assert facts.frozen == ("parts.1.inner.bias",)
    assert facts.tables == ("table.weight", "head.bias")
    assert [(name, b.persistent) for name, b in facts.buffers.items()][:2] == [
        ("parts.0.kept", True),
        ("parts.0.made", False),
    ]
    assert facts.n_parameters == 16 * 8 + 16 + 3 * (64 + 8)


def test_parameters_have_no_memory_while_facts_are_read(call):
    """A model of a hundred billion parameters is described without their memory."""
    facts = read_facts(call(HEAD, {"width": 2**32}))
    assert facts.n_parameters == 2 * 16 * 2**32 + 16


def test_a_module_that_fills_itself_is_never_constructed_with_memory(call):
    """`llmrun_init` fills one parameter at a time from its own stream, whatever the order."""
    source = HEAD + (
        "\ndef fill(self, name, tensor, generator):\n"
        "    assert self.table.weight.is_meta\n"
        "    tensor.normal_(generator=generator)\n"
        "Net.llmrun_init = fill\n"
    )
    found = call(source)
    first, second = FactorySpec(found), FactorySpec(found)
    values = {}
    for spec, names in ((first, list(first.parameters)), (second, list(second.parameters)[::-1])):
        for name in names:
            parameter = torch.nn.Parameter(torch.empty(spec.parameters[name]))
            spec.initialise(name, parameter, 1)
            assert torch.equal(values.setdefault(name, parameter.detach()), parameter)
    assert not torch.equal(values["table.weight"].T, values["head.weight"].T)


def test_initial_values_are_those_of_the_models_own_initialisation(call):
    """The module's own initial values under the stream `[seed, "init"]`: the same at every call, others by seed."""
    found = call()
    other = FactoryCall(found.factory, {}, 16, 4, seed=2)

    def values(of: FactoryCall) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.empty(16, 8))
        FactorySpec(of).initialise("table.weight", parameter, of.seed)
        return parameter.detach()

    torch.manual_seed(123)
    once = values(found)
    assert torch.equal(once, values(found))
    assert not torch.equal(once, values(other))


def test_facts_survive_json(call):
    """The launcher reads the facts that another process wrote."""
    facts = read_facts(call())
    assert type(facts).of_json(json.loads(json.dumps(facts.as_json()))) == facts
