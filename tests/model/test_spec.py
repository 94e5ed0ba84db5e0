"""Training knows a model only through `ModelSpec`: another one trains behind the same seam."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmrun.config.load import LoadedConfig
from llmrun.config.resolve import MachineFacts, resolve, training_spec
from llmrun.config.schema import Config
from llmrun.core.generators import cpu_generator
from llmrun.core.loader import MicroBatch
from llmrun.core.model.build import build, initial_values
from llmrun.core.state import initial_state
from llmrun.core.step import train_step
from llmrun.core.tensor_digest import Digester

L_CTX, VOCABULARY, WIDTH = 8, 32, 16
CONFIG = {
    "T_tokens": 640,
    "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "vocab_size": VOCABULARY},
    "batch": {"GB_tok": 64, "mu_tok": 16, "L_ctx": L_CTX, "V": 4, "D": 1},
    "schedule": {"warmup_tokens": 0},
    "optimizer": {"lr": 0.01},
    "hardware": {"device": "cpu", "threads_per_rank": 1},
}


class Tied(nn.Module):
    """A table that is used twice under two names, a matrix, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.block = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.full((WIDTH,), 0.5, device="cpu"), persistent=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, int]:
        """See `LanguageModel`; the first target of each sequence does not count."""
        x = self.table(tokens[:, :-1]) * self.scale
        logits = self.head(torch.tanh(self.block(x)))[:, 1:]
        targets = tokens[:, 2:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), targets.numel()


@dataclass(frozen=True)
class TiedSpec:
    """`Tied` as a `ModelSpec`."""

    parameters = {"table.weight": (VOCABULARY, WIDTH), "block.weight": (WIDTH, WIDTH), "block.bias": (WIDTH,)}  # noqa: RUF012
    n_parameters = VOCABULARY * WIDTH + WIDTH * WIDTH + WIDTH
    blocks = ("block",)
    flops_per_token = None
    frozen = frozenset()

    def build(self, *, recompute_blocks: bool) -> nn.Module:
        """See `ModelSpec.build`."""
        with torch.device("meta"):
            return Tied()

    def initialise(self, name: str, parameter: nn.Parameter, seed: int) -> None:
        """See `ModelSpec.initialise`."""
        values = torch.empty(parameter.shape).normal_(std=0.1, generator=cpu_generator(seed, "init", name))
        parameter.data.copy_(values)


class Tokens:
    """A loader of fixed tokens."""

    def next(self, step: int, number: int) -> MicroBatch:
        """See `Loader.next`."""
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, VOCABULARY, (2, L_CTX + 1), generator=generator, dtype=torch.int32)
        return MicroBatch(step, number, tokens)


def test_a_shared_parameter_stays_shared_and_a_buffer_filled():
    """`build` places each parameter once, under its first name."""
    filled = []
    spec = TiedSpec()
    fill = initial_values(spec, 7)

    def noting(name, parameter):
        filled.append(name)
        fill(name, parameter)

    model = build(spec, lambda _, size: torch.zeros(size), noting)

    assert filled == list(spec.parameters)
    assert model.head.weight is model.table.weight
    assert model.scale.tolist() == [0.5] * WIDTH


def test_another_model_trains():
    """Ten steps of the training step: the loss counts the model's own targets, and falls."""
    config = resolve(LoadedConfig(Config.model_validate(CONFIG), "test"), None, MachineFacts(0))
    spec = replace(training_spec(config), model=TiedSpec())
    state = initial_state(spec, 0, torch.device("cpu"), n_windows=100)
    digester = Digester(torch.device("cpu"))
    losses = [train_step(state, Tokens(), digester, list).loss for _ in range(10)]

    assert losses[0] == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), abs=0.2)
    assert losses[-1] < losses[0] - 0.05
