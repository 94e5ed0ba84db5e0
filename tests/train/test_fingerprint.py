"""What the fingerprint covers: every numeric field and nothing operational, and what a real run puts on record."""

import hashlib
import json
import subprocess
from dataclasses import dataclass

import pytest

from llmrun.config.differences import leaf_differences
from llmrun.config.field_values import numeric_fields, operational_fields
from llmrun.config.keys import leaves
from llmrun.config.load import load_config
from llmrun.config.resolve import DatasetFacts, MachineFacts, resolve
from llmrun.data.prepare import prepare
from llmrun.provenance.code import source_digest
from llmrun.provenance.fingerprint import Fingerprint
from llmrun.storage.checkpoint.verification import open_verified
from warm.bits import chain_of
from warm.driver import TEXT, Driver

CONFIG = """
name: base
seed: 42
T_tokens: 64Ki
model: {n_layers: 2, d_model: 64, n_heads: 4, n_kv_heads: 2, head_dim: 16, d_ff: 48, vocab_size: 300}
batch: {GB_tok: 1Ki, μ_tok: 128, L_ctx: 64, V: 8, D: 1}
schedule: {warmup_tokens: 4Ki}
data: {path: data}
hardware: {device: cpu}
"""
DATASET = DatasetFacts(vocab_size=257, train_tokens=100_000, val_tokens=10_000)
ONLY = "the only value that the schema allows"


@dataclass(frozen=True)
class With:
    """A value that is sound only beside other settings, which both sides get."""

    value: str
    settings: tuple[str, ...]


SHAPE = (
    "model.n_layers=2", "model.d_model=64", "model.n_heads=4", "model.n_kv_heads=2", "model.head_dim=16", "model.d_ff=48",
    "model.vocab_size=300", "batch.L_ctx=64",
    "model.tie_embeddings=true", "model.mlp=gelu", "model.norm=layernorm", "model.norm_eps=1e-5", "model.position=rope",
    "model.rope_theta=10000", "model.bias=false", "model.qkv_bias=false", "model.qk_norm=false", "model.dropout=0",
)  # fmt: skip
"""All that a preset would fill: beside these keys only its name is left, which counts where it is for planning."""

MUON = ("optimizer.name=muon",)

NUMERIC = {
    "seed": "43",
    "T_tokens": "65Ki",
    "model.preset": With("bloom-560m", SHAPE),
    "model.n_layers": "3",
    "model.d_model": "72",
    "model.n_heads": "2",
    "model.n_kv_heads": "1",
    "model.head_dim": "32",
    "model.d_ff": "49",
    "model.vocab_size": "301",
    "model.tie_embeddings": "false",
    "model.mlp": "gelu",
    "model.norm": "layernorm",
    "model.norm_eps": "1e-6",
    "model.position": "learned",
    "model.rope_theta": "50000",
    "model.bias": "true",
    "model.qkv_bias": "true",
    "model.qk_norm": "true",
    "model.dropout": "0.1",
    "batch.gb_tok": "2Ki",
    "batch.mu_tok": "64",
    "batch.L_ctx": "32",
    "batch.V": "4",
    "optimizer.name": "muon",
    "optimizer.lr": "1e-3",
    "optimizer.betas": "[0.9, 0.99]",
    "optimizer.eps": "1e-9",
    "optimizer.weight_decay": "0",
    "optimizer.grad_clip": "null",
    "optimizer.implementation": "foreach",
    "optimizer.groups": '[{match: "*norm.weight", lr_scale: 0.5}]',
    "optimizer.muon.lr": With("0.01", MUON),
    "optimizer.muon.momentum": With("0.9", MUON),
    "optimizer.muon.nesterov": With("false", MUON),
    "optimizer.muon.ns_steps": With("6", MUON),
    "optimizer.muon.weight_decay": With("0", MUON),
    "optimizer.muon.adjust_lr_fn": With("match_rms_adamw", (*MUON, "optimizer.muon.lr=0.02")),
    "schedule.name": "linear",
    "schedule.warmup_tokens": "5Ki",
    "schedule.final_lr_fraction": "0",
    "schedule.decay_tokens": With("8Ki", ("schedule.name=constant",)),
    "precision": "fp32",
    "compile": ONLY,
    "reproducibility.mode": "statistical",
    "hardware.device": "cuda",
    "hardware.threads_per_rank": "2",
}

OPERATIONAL = {
    "name": "other",
    "runs_dir": "elsewhere",
    "batch.D": "2",
    "batch.A": With("4", ("batch.D=2",)),
    "batch.uneven": "allow",
    "strategy": "shard",
    "activation_checkpointing": "block",
    "data.path": "data/other",
    "data.num_workers": "0",
    "data.verify": "never",
    "data.on_damage": ONLY,
    "data.order_file": "never",
    "eval.every_steps": "null",
    "eval.windows": "8",
    "checkpoint.every_steps": "5",
    "checkpoint.every_minutes": "1",
    "checkpoint.keep_last": "3",
    "checkpoint.keep_best": "false",
    "checkpoint.keep_every_steps": With("10", ("checkpoint.every_steps=5",)),
    "checkpoint.on_disk_full": "stop",
    "reproducibility.compare_with": "another-run",
    "reproducibility.on_difference": "stop",
    "monitor.baseline": "[base-1, base-2]",
    "hardware.accelerator": "H100-SXM",
    "hardware.assumed_mfu": "0.5",
    "hardware.PUE": "1.5",
    "hardware.yuan_per_kWh": "1",
    "hardware.yuan_per_GPU_hour": "18",
    "hardware.kgCO2_per_kWh": "0.4",
    "hardware.watts_per_device": "500",
    "hardware.checkpoint_GBps": "5",
    "hardware.device_MTBF_hours": "1000",
    "hardware.restart_minutes": "3",
    "hardware.table": "gpus.yaml",
}

OWN_MODEL = {
    "model.factory": ("numeric", "model.factory=net:large"),
    "model.args": ("numeric", "model.args.width=9"),
    "model.import_root": ("operational", "model.import_root=elsewhere"),
}
"""Kind and an override of the fields of a model of the user's own, which exclude those of the built-in one."""


@pytest.fixture
def resolved(tmp_path):
    """The resolved config under some overrides, as on a machine with two GPUs."""
    (tmp_path / "base.yaml").write_text(CONFIG)

    def config_under(*overrides):
        loaded = load_config(tmp_path / "base.yaml", overrides)
        return resolve(loaded, DATASET, MachineFacts(gpus=2)).config

    return config_under


def fingerprint(config) -> Fingerprint:
    """The fingerprint of a run with this config, all else being equal."""
    return Fingerprint({"config": numeric_fields(config), "data": {}, "code": {}, "environment": {}})


def both_sides(resolved, key, other):
    """The config without and with the other value of `key`; an only value is changed past the schema."""
    if other is ONLY:
        *sections, name = key.split(".")
        config = resolved()
        changes = {name: "another"}
        for section in sections:
            changes = {section: getattr(config, section).model_copy(update=changes)}
        return config, config.model_copy(update=changes)
    settings = other.settings if isinstance(other, With) else ()
    value = other.value if isinstance(other, With) else other
    return resolved(*settings), resolved(*settings, f"{leaves()[key].shown}={value}")


def changed_keys(old, new) -> set[str]:
    """Dotted keys of the fields that differ."""
    return {difference.key for difference in leaf_differences(old, new)}


@pytest.mark.parametrize(("kind", "table"), [("numeric", NUMERIC), ("operational", OPERATIONAL)])
def test_the_tables_cover_the_schema(kind, table):
    """Every leaf of the schema has another value below; one without any choice is marked as such."""
    of_kind = {key: leaf for key, leaf in leaves().items() if leaf.kind == kind}

    assert set(table) | {key for key, (of, _) in OWN_MODEL.items() if of == kind} == set(of_kind)
    assert {key for key, other in table.items() if other is ONLY} == {
        key for key, leaf in of_kind.items() if len(leaf.choices) == 1
    }


@pytest.mark.parametrize("key", NUMERIC)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_every_numeric_field_changes_the_fingerprint(resolved, key):
    """Another value of it alone changes exactly this field of the preimage, the part and the digest."""
    old, new = both_sides(resolved, key, NUMERIC[key])
    before, after = fingerprint(old), fingerprint(new)

    # Muon's settings count only beside it.
    filled = {"optimizer.muon"} if key == "optimizer.name" else set()
    assert changed_keys(before.preimages["config"], after.preimages["config"]) == {key} | filled
    assert before.parts["config"] != after.parts["config"]
    assert before.digest != after.digest


@pytest.mark.parametrize("key", OPERATIONAL)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_no_operational_field_changes_the_fingerprint(resolved, key):
    """Another value of it changes the config and not one digit of the digest."""
    old, new = both_sides(resolved, key, OPERATIONAL[key])

    # A follows from D: stating what follows is no change of the resolved config.
    assert key in changed_keys(operational_fields(old), operational_fields(new)) or key == "batch.A"
    assert fingerprint(old) == fingerprint(new)
    assert fingerprint(old).digest == fingerprint(new).digest


@pytest.mark.parametrize("key", OWN_MODEL)
def test_fields_of_a_users_own_model(tmp_path, key):
    """Factory and arguments are numeric, the directory of its module is not."""
    model = "model: {factory: 'net:small', args: {width: 8}, vocab_size: 300}"
    lines = [model if line.startswith("model:") else line for line in CONFIG.splitlines()]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    kind, override = OWN_MODEL[key]
    old, new = (
        resolve(load_config(tmp_path / "own.yaml", overrides), DATASET, MachineFacts(gpus=2)).config
        for overrides in ([], [override])
    )
    changed = changed_keys(fingerprint(old).preimages["config"], fingerprint(new).preimages["config"])

    assert getattr(old.model, key.removeprefix("model.")) != getattr(new.model, key.removeprefix("model."))
    assert {".".join(name.split(".")[:2]) for name in changed} == ({key} if kind == "numeric" else set())


def sha256_of_json(value) -> str:
    """sha256 of canonical JSON, written down here once more."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def record_of(driver: Driver, name: str) -> dict:
    """A run's run.json."""
    return json.loads(driver.run(name).record_file.read_text())


def test_a_stranger_can_rebuild_the_fingerprint(driver, pool):
    """run.json's preimages give its parts, the parts its digest, which segment and checkpoint repeat."""
    driver.train(pool, "one", until=1)
    record = record_of(driver, "one")
    recorded = record["fingerprint"]
    parts = {part: sha256_of_json(preimage) for part, preimage in recorded["preimages"].items()}
    manifest = open_verified(driver.run("one").checkpoints / "step-00000001").manifest

    assert sorted(parts) == ["code", "config", "data", "environment"]
    assert recorded["parts"] == record["segments"][0]["parts"] == manifest.parts == parts
    assert recorded["digest"] == record["segments"][0]["fingerprint"] == manifest.fingerprint
    assert recorded["digest"] == sha256_of_json(parts)


def test_config_yaml_is_the_config_of_the_fingerprint(driver, pool):
    """Loading the run's config.yaml again gives the same numeric fields."""
    driver.train(pool, "one", until=1)
    config = load_config(driver.run("one").config_file).config

    assert numeric_fields(config) == record_of(driver, "one")["fingerprint"]["preimages"]["config"]


def test_the_code_part_lists_what_can_change_bits(driver, pool):
    """Every file below llmrun/core, with the digest of its normalised source, and no other file of ours."""
    driver.train(pool, "one", until=1)
    files = record_of(driver, "one")["fingerprint"]["preimages"]["code"]
    root = TEXT.parent

    ours = {name: digest for name, digest in files.items() if name.startswith("llmrun/")}
    core = list((root / "llmrun" / "core").rglob("*.py"))
    assert ours == {path.relative_to(root).as_posix(): source_digest(path.read_bytes()) for path in core}


def test_sharding_is_not_data(driver, pool, tmp_path):
    """The same text in many small shards: the same data part and the same history."""
    (tmp_path / "text.txt").write_text(TEXT.read_text())
    for name, tokens in (("large", 10**6), ("small", 1000)):
        prepare([tmp_path / "text.txt"], tmp_path / name, "byte", val_fraction=0.1, shard_tokens=tokens)
    for name in ("large", "small"):
        driver.train(pool, name, f"data.path={tmp_path / name}", until=4)

    assert len(list((tmp_path / "small").glob("*.bin"))) > 2 == len(list((tmp_path / "large").glob("*.bin")))
    assert record_of(driver, "large")["fingerprint"] == record_of(driver, "small")["fingerprint"]
    assert chain_of(driver.run("large")) == chain_of(driver.run("small"))


def test_other_text_is_other_data(driver, pool, tmp_path):
    """One letter more changes the data part, and only that."""
    for name, more in (("same", ""), ("other", "x")):
        (tmp_path / f"{name}.txt").write_text(TEXT.read_text() + more)
        prepare([tmp_path / f"{name}.txt"], tmp_path / name, "byte", val_fraction=0.1)
        driver.train(pool, name, f"data.path={tmp_path / name}", until=1)
    one, other = (record_of(driver, name)["fingerprint"] for name in ("same", "other"))

    assert {part for part in one["parts"] if one["parts"][part] != other["parts"][part]} == {"data"}
    assert one["digest"] != other["digest"]


def git(*arguments: str) -> None:
    """A git command in the working directory, whatever the user's own settings are."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def test_outside_a_repository_it_says_what_is_missing(driver, pool, tmp_path, monkeypatch):
    """No commit is on record, the user is told so, and the run trains."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    ended = driver.train(pool, "one", until=1)
    missing = f"{tmp_path} is not in a git repository: the commit of the code is not recorded"
    recorded = json.loads((driver.run("one").provenance / "git.json").read_text())

    assert ended.end.why == "reached"
    assert missing in driver.said
    assert (recorded["commit"], recorded["missing"]) == (None, [missing])


SECRETS = (
    "s3cret-of-a-remote",
    "s3cret-of-a-variable",
    "s3cret-of-a-proxy",
    "s3cret-of-an-index",
    "s3cret-of-a-filter",
)


@pytest.fixture
def repository(driver, monkeypatch):
    """A dirty repository around the working directory, with secrets wherever people leave them."""
    git("init", "--initial-branch=trunk")
    (driver.directory / "model.py").write_text("WIDTH = 1\n")
    (driver.directory / ".gitattributes").write_text("*.dat filter=odd\n")
    (driver.directory / "weights.dat").write_text("1\n")
    git("add", "model.py", "config.yaml", ".gitattributes", "weights.dat")
    git("commit", "--message=first")
    git("remote", "add", "origin", f"https://alice:{SECRETS[0]}@example.org/model.git?token={SECRETS[0]}")
    (driver.directory / "model.py").write_text("WIDTH = 2  # a change not committed\n")
    (driver.directory / "notes.txt").write_text("untracked")
    for name in ("HF_TOKEN", "WANDB_API_KEY", "CUDA_TEST_TOKEN", "TORCH_SECRET", "NCCL_PASSWORD"):
        monkeypatch.setenv(name, SECRETS[1])
    monkeypatch.setenv("TORCH_PROXY", f"http://alice:{SECRETS[2]}@example.org")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"https://alice:{SECRETS[3]}@example.org/simple")
    return driver


def test_a_dirty_repository_is_on_record(repository, pool):
    """Commit, branch, the uncommitted change and the untracked file's name stand in provenance/."""
    repository.train(pool, "one", until=1)
    provenance = repository.run("one").provenance
    recorded = json.loads((provenance / "git.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)

    assert recorded["commit"] == head.stdout.strip()
    assert recorded["branch"] == "trunk"
    assert list(recorded["dirty"]) == ["model.py"]
    assert "+WIDTH = 2  # a change not committed" in (provenance / "git.diff").read_text()
    assert [entry["name"] for entry in recorded["untracked"]] == ["notes.txt"]
    assert recorded["remotes"] == {"origin": "https://example.org/model.git"}
    assert "torch==" in (provenance / "pip-freeze.txt").read_text()
    assert record_of(repository, "one")["git"]["commit"] == recorded["commit"]


def test_no_secret_is_on_record(repository, pool):
    """Tokens in variables and credentials in addresses are in no file of the run; the public change is.

    Nor are those in git's words about what it could not read, which are on record.
    """
    repository.train(pool, "whole", until=1)
    git(
        "config",
        "filter.odd.clean",
        f"echo cannot reach https://alice:{SECRETS[4]}@example.org/lfs >&2; exit 1",
    )
    git("config", "filter.odd.required", "true")
    (repository.directory / "weights.dat").write_text("two\n")
    repository.train(pool, "one", until=1)
    runs = [repository.run(name).path for name in ("whole", "one")]
    contents = [path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()]

    assert [secret for secret in SECRETS if any(secret.encode() in content for content in contents)] == []
    assert any(b"a change not committed" in content for content in contents)
    assert any(b"https://example.org/lfs" in content for content in contents)
