"""Text from a checkpoint's weights (torch).  The same seed draws the same tokens on the same machine."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llmrun.config.differences import leaf_differences
from llmrun.config.dump import numeric_fields
from llmrun.config.resolve import Resolved, resolved_of
from llmrun.config.schema import Config
from llmrun.core.generators import cpu_generator
from llmrun.core.model.initialise import build
from llmrun.core.model.transformer import Transformer
from llmrun.data.manifest import DatasetManifest, read_manifest
from llmrun.data.tokenizers import Tokenizer, load_tokenizer
from llmrun.errors import DamagedError, InputError, RefusedError
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_in_force, dataset_paths
from llmrun.run.record import RunRecord, read_record
from llmrun.run.record_check import record_check_of
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import newest_sound
from llmrun.text import command


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
    checkpoint, damages = newest_sound(run.checkpoints, record_check=record_check_of(run))
    if checkpoint is None and damages:
        raise RefusedError(f"no checkpoint of {run.name} is sound", caused_by=[str(d) for d in damages])
    if checkpoint is None:
        raise InputError(
            f"{run.name} has no checkpoint yet",
            hints=[f"train it first: `{command('llmrun', 'resume', run.path)}`"],
        )
    record = read_record(run.record_file)
    config = Config.model_validate_json(json.dumps(config_in_force(run, record)))
    refuse_other_model(run, record, config)
    resolved = resolved_of(config, 1)
    directory, manifest = find_dataset(run, record)
    return Writer(
        model=loaded_model(resolved, checkpoint),
        tokenizer=load_tokenizer(directory, manifest),
        eot_id=manifest.tokenizer.eot_id,
        resolved=resolved,
        checkpoint=checkpoint,
    )


def refuse_other_model(run: RunDirectory, record: RunRecord, config: Config) -> None:
    """Hold the config of the last segment's orders against the one that its fingerprint names.

    Raises DamagedError if they differ in a numeric field: other heads make other text of the same weights.
    """
    stated = {
        key: value for key, value in record.preimages_of(record.last)["config"].items() if key != "origin"
    }
    found = leaf_differences(stated, numeric_fields(config))
    if found:
        key, old, new = found[0]
        last = 0 if record.last is None else record.last.segment
        raise DamagedError(
            f"the config of segment {last} must be the one of its fingerprint: {key} is {new}, not {old}",
            where=str(run.worker_spec_file(last) if last else run.record_file),
            hints=["restore the run's `logs/` and run.json from a copy"],
        )


def find_dataset(run: RunDirectory, record: RunRecord) -> tuple[Path, DatasetManifest]:
    """The dataset that a run was last trained on, for its tokenizer.

    Raises InputError where it has moved, or another one with another tokenizer lies in its place.
    """
    places = list(dict.fromkeys(path.resolve() for path in dataset_paths(run, record)))
    directory = next((path for path in places if path.is_dir()), None)
    if directory is None:
        raise InputError(
            f"the dataset of {run.name} is gone: its tokenizer is needed to read and write text",
            caused_by=[f"there is no {path}" for path in places],
            hints=[f"put the dataset, or a link to it, at {places[0]}"],
        )
    manifest = read_manifest(directory)
    if manifest.tokenizer.sha256 != record.preimages_of(record.last)["data"]["tokenizer"]:
        raise InputError(
            f"the dataset at {directory} has another tokenizer than {run.name} was trained with",
            hints=["put the run's own dataset back in its place"],
        )
    return directory, manifest


def loaded_model(resolved: Resolved, checkpoint: Checkpoint) -> Transformer:
    """A model of the run's shape with a checkpoint's weights, ready to predict."""

    def fill(name: str, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(checkpoint.read(name)).view(parameter.shape))

    model = build(resolved.shape, lambda _, size: torch.empty(size, dtype=torch.float32), fill)
    model.eval()
    return model
