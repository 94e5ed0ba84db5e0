"""Generates text with the weights of a checkpoint (torch).  The same seed draws the same tokens on the same machine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from llmrun.config.differences import leaf_differences
from llmrun.config.field_values import numeric_fields
from llmrun.config.resolve import Resolved, resolved_of
from llmrun.config.schema import Config
from llmrun.core.generators import cpu_generator
from llmrun.core.model.build import build
from llmrun.core.model.factory import FactorySpec
from llmrun.core.model.language_model import NextTokenModel
from llmrun.data.location import locate_dataset
from llmrun.data.manifest import DatasetManifest, read_manifest
from llmrun.data.tokenizers import Tokenizer, load_tokenizer
from llmrun.errors import DamagedError, InputError, RefusedError
from llmrun.provenance.imports import ImportRecorder
from llmrun.run.directory import RunDirectory
from llmrun.run.history import config_in_force, dataset_paths
from llmrun.run.record import RunRecord, read_record
from llmrun.run.record_check import record_check_of
from llmrun.runtime.model_import import ModelImport, import_model, own_files
from llmrun.storage.checkpoint.reader import Checkpoint
from llmrun.storage.checkpoint.verification import newest_sound
from llmrun.text import command


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.  temperature 0: always the most likely one.  top_k 0: from all tokens."""

    seed: int
    tokens: int
    temperature: float
    top_k: int


@dataclass(frozen=True)
class TextGenerator:
    """The model of a run's newest sound checkpoint, and its tokenizer.

    changed: files of a user's own model that are not as they were when the run was trained.
    """

    model: NextTokenModel
    tokenizer: Tokenizer
    eot_id: int
    resolved: Resolved
    checkpoint: Checkpoint
    changed: tuple[str, ...] = ()

    def generate(self, prompt: str, sampling: Sampling) -> str:
        """The prompt and up to `sampling.tokens` tokens after it, up to the end of the document."""
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
    """Draw a token id from logits [vocab_size], float32."""
    if sampling.temperature == 0:
        return int(logits.argmax().item())
    if 0 < sampling.top_k < len(logits):
        smallest = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator).item())


def load_generator(run: RunDirectory) -> TextGenerator:
    """Load the newest sound checkpoint of a run on the CPU.

    Raises InputError if there is no checkpoint or the dataset is missing, RefusedError if no checkpoint is sound,
    DamagedError if the config is not the one of the fingerprint.
    """
    checkpoint, damages = newest_sound(run.checkpoints, record_check=record_check_of(run))
    if checkpoint is None and damages:
        raise RefusedError(f"no checkpoint of {run.name} is sound", caused_by=[str(d) for d in damages])
    if checkpoint is None:
        raise InputError(
            f"{run.name} has no checkpoint yet",
            hints=[f"`{command('llmrun', 'resume', run.path)}` trains it"],
        )
    record = read_record(run.record_file)
    config = Config.model_validate_json(json.dumps(config_in_force(run, record)))
    refuse_other_model(run, record, config)
    resolved = resolved_of(config, 1)
    directory, manifest = find_dataset(run, record)
    model = loaded_model(resolved, checkpoint)
    return TextGenerator(
        model=model,
        tokenizer=load_tokenizer(directory, manifest),
        eot_id=manifest.tokenizer.eot_id,
        resolved=resolved,
        checkpoint=checkpoint,
        changed=changed_files(record.preimages_of(record.last)["code"]),
    )


def changed_files(recorded: Mapping[str, str]) -> tuple[str, ...]:
    """The import paths of the user's own model whose source is not the recorded one; empty for the built-in model.

    recorded: the code part of the fingerprint.
    """
    files = own_files()
    if not files:
        return ()
    recorder = ImportRecorder.install()
    digests = recorder.source_files()
    own = [name for name, path in recorder.paths.items() if path in files]
    return tuple(name for name in own if digests.get(name) != recorded.get(name))


def refuse_other_model(run: RunDirectory, record: RunRecord, config: Config) -> None:
    """Compare the config of the last segment with the one of its fingerprint.

    Raises DamagedError if a numeric field differs: with another config the same weights may give other text.
    """
    stated = {
        key: value for key, value in record.preimages_of(record.last)["config"].items() if key != "origin"
    }
    found = leaf_differences(stated, numeric_fields(config))
    if found:
        key, old, new = found[0]
        last = 0 if record.last is None else record.last.segment
        raise DamagedError(
            f"{key} of segment {last} must be {old} as in its fingerprint, got {new}",
            where=str(run.worker_spec_file(last) if last else run.record_file),
            hints=["restore `logs/` and run.json of the run from a copy"],
        )


def find_dataset(run: RunDirectory, record: RunRecord) -> tuple[Path, DatasetManifest]:
    """Find the dataset that a run was last trained on, for its tokenizer.

    Raises InputError if it is missing, or has another tokenizer than the run.
    """
    places = [path.resolve() for path in dataset_paths(run, record)]
    directory = locate_dataset(
        places,
        f"cannot find the dataset of {run.name}, whose tokenizer is needed",
        hints=[f"put the dataset, or a link to it, at {places[0]}"],
    )
    manifest = read_manifest(directory)
    if manifest.tokenizer.sha256 != record.preimages_of(record.last)["data"]["tokenizer"]:
        raise InputError(
            f"the dataset at {directory} must have the tokenizer that {run.name} was trained with, got another one",
            hints=["restore the dataset of the run"],
        )
    return directory, manifest


def loaded_model(resolved: Resolved, checkpoint: Checkpoint) -> NextTokenModel:
    """The model with the weights of a checkpoint, in evaluation mode."""

    def fill(name: str, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(checkpoint.read(name)).view(parameter.shape))

    own = ModelImport.of(resolved.config)
    spec = resolved.model
    if own is not None:
        assert isinstance(spec, FactorySpec)
        ImportRecorder.install()
        import_model(own, spec)
    model = build(spec, lambda _, size: torch.empty(size, dtype=torch.float32), fill)
    model.eval()
    return spec.next_token(model)
