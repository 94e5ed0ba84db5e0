"""Text from a checkpoint's weights (torch).  The same seed draws the same tokens on the same machine."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llmrun.checkpoint.reader import Checkpoint, newest_sound
from llmrun.config.load import load_config
from llmrun.config.resolve import Resolved, resolved_of
from llmrun.data.manifest import read_manifest
from llmrun.data.tokenizers import Tokenizer, load_tokenizer
from llmrun.errors import InputError, RefusedError
from llmrun.model.generators import cpu_generator
from llmrun.model.initialise import build
from llmrun.model.transformer import Transformer
from llmrun.run.directory import RunDirectory


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.  temperature 0 takes the likeliest; top_k 0 draws from all."""

    seed: int
    tokens: int
    temperature: float
    top_k: int


@dataclass(frozen=True)
class Writer:
    """A run's newest sound model and its tokenizer."""

    model: Transformer
    tokenizer: Tokenizer
    eot_id: int
    resolved: Resolved
    checkpoint: Checkpoint

    def write(self, prompt: str, sampling: Sampling) -> str:
        """The prompt and up to `sampling.tokens` tokens after it; ends at the end of a document."""
        generator = cpu_generator(sampling.seed, "sample")
        ids = [self.eot_id, *self.tokenizer.encode(prompt)]
        for _ in range(sampling.tokens):
            context = torch.tensor([ids[-self.resolved.batch.L_ctx :]], dtype=torch.int64)
            with torch.no_grad():
                logits = self.model.logits(context)[0, -1].float()
            chosen = draw(logits, sampling, generator)
            if chosen == self.eot_id:
                break
            ids.append(chosen)
        return self.tokenizer.decode(ids[1:])


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token from logits [vocab_size], float32."""
    if sampling.temperature == 0:
        return int(logits.argmax().item())
    if 0 < sampling.top_k < len(logits):
        smallest = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator).item())


def open_writer(run: RunDirectory) -> Writer:
    """The newest sound checkpoint of a run as a model on the CPU.

    Raises InputError where there is no checkpoint or the dataset has moved, RefusedError where none is sound.
    """
    checkpoint, damages = newest_sound(run.checkpoints)
    if checkpoint is None and damages:
        raise RefusedError(f"no checkpoint of {run.name} is sound", caused_by=[str(d) for d in damages])
    if checkpoint is None:
        raise InputError(
            f"{run.name} has no checkpoint yet", hints=[f"train it first: `llmrun resume {run.path}`"]
        )
    config = load_config(run.config_file).config
    resolved = resolved_of(config, 1)
    directory = Path(config.data.path or "")
    manifest = read_manifest(directory)
    return Writer(
        model=loaded_model(resolved, checkpoint),
        tokenizer=load_tokenizer(directory, manifest),
        eot_id=manifest.tokenizer.eot_id,
        resolved=resolved,
        checkpoint=checkpoint,
    )


def loaded_model(resolved: Resolved, checkpoint: Checkpoint) -> Transformer:
    """A model of the run's shape with a checkpoint's weights, ready to predict."""

    def fill(name: str, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(checkpoint.read(name)).view(parameter.shape))

    model = build(resolved.shape, lambda _, size: torch.empty(size, dtype=torch.float32), fill)
    model.eval()
    return model
