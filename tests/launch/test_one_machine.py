"""The ranks of one machine meet over its loopback interface, whatever names and variables surround them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
name: one
T_tokens: 2Ki
model: {n_layers: 1, d_model: 32, n_heads: 2}
batch: {GB_tok: 512, μ_tok: 128, L_ctx: 64, D: 2, V: 4}
data: {path: DATA, num_workers: 1}
checkpoint: {every_steps: null}
hardware: {device: cpu}
"""
HOSTILE = {
    # names of a cluster's network that this machine does not have
    "GLOO_SOCKET_IFNAME": "ib9",
    "NCCL_SOCKET_IFNAME": "ib9",
    "TP_SOCKET_IFNAME": "ib9",
    # proxies that answer to nobody
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    # torchrun's own options, as operators of clusters set them
    "PET_NNODES": "2",
    "PET_RUN_PATH": "1",
    "PET_STANDALONE": "1",
    "PET_RDZV_CONF": "join_timeout=1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "MASTER_ADDR": "no.such.host",
    "MASTER_PORT": "1",
}


def in_namespace(setup: str, *command: str) -> list[str]:
    """`command` in a namespace of its own for mounts, after the shell commands of `setup`."""
    user = [] if os.geteuid() == 0 else ["-r"]
    return ["unshare", *user, "-m", "sh", "-ec", f'{setup}; exec "$@"', "sh", *command]


def has_namespaces() -> bool:
    """Whether this machine lets us mount in a namespace."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(in_namespace("mount -t tmpfs none /mnt", "true"), capture_output=True, check=False)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="no mount namespaces here")


def llmrun(*words: str) -> list[str]:
    """A command line of llmrun."""
    return [sys.executable, "-m", "llmrun", *words]


@pytest.fixture
def config(tmp_path, dataset_of_session) -> Path:
    """A config of two ranks with loader workers."""
    (tmp_path / "one.yaml").write_text(CONFIG.replace("DATA", str(dataset_of_session)))
    return tmp_path / "one.yaml"


@needs_namespaces
def test_names_and_variables_of_a_cluster_do_not_matter(config, tmp_path):
    """`localhost` does not resolve, and every variable points elsewhere: two ranks train to the end."""
    (tmp_path / "hosts").write_text("10.255.255.1 elsewhere\n")
    (tmp_path / "nsswitch").write_text("passwd: files\nhosts: files\n")
    setup = f"mount --bind {tmp_path}/hosts /etc/hosts; mount --bind {tmp_path}/nsswitch /etc/nsswitch.conf"
    train = llmrun("train", str(config), "--run", "one", "--json")
    environment = {**os.environ, **HOSTILE, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}

    done = subprocess.run(
        in_namespace(setup, *train),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["step"] == 4
    recorded = json.loads((tmp_path / "runs/one/provenance/environment.json").read_text())["variables"]
    used = {recorded[f"{kind}_SOCKET_IFNAME"] for kind in ("GLOO", "NCCL", "TP")}
    assert len(used) == 1
    assert used != {"ib9"}


def test_the_loopback_interface_is_found_by_its_flags():
    """127.0.0.1 if there is one, ::1 else; an interface that is down refuses the start."""
    find = "from llmrun.launch.loopback import find_loopback as f; l = f(); print(l.interface, l.address, l.endpoint)"
    python = [sys.executable, "-c", find]
    up = subprocess.run(python, capture_output=True, text=True, check=True).stdout.split()
    assert up[1:] == ["127.0.0.1", "127.0.0.1:0"]


@needs_namespaces
@pytest.mark.parametrize(
    ("setup", "code", "message"),
    [
        ("true", 1, "no loopback interface"),
        ("ip link set lo up; ip addr del 127.0.0.1/8 dev lo", 0, "::1 [::1]:0"),
        ("ip link set lo name loop7; ip link set loop7 up", 0, "loop7 127.0.0.1 127.0.0.1:0"),
    ],
)
def test_a_network_of_its_own(setup, code, message):
    """A network namespace in which the loopback interface is down, has no IPv4 address, or another name."""
    if shutil.which("ip") is None and setup != "true":
        pytest.skip("no ip command")
    find = "from llmrun.launch.loopback import find_loopback as f; l = f(); print(l.interface, l.address, l.endpoint)"
    command = in_namespace(setup, sys.executable, "-c", find)
    command.insert(1, "-n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert message in done.stdout + done.stderr


@needs_namespaces
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_shared_memory_that_loader_workers_cannot_use_is_refused(config, tmp_path, options):
    """Small or read-only: exit 3 before anything started, and the setting that needs none is named."""
    command = in_namespace(
        f"mount -t tmpfs -o {options} none /dev/shm", *llmrun("train", str(config), "--json")
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 3, done.stderr
    error = json.loads(done.stderr)
    assert error["where"]["file"] == "/dev/shm"
    assert any("data.num_workers=0" in hint["text"] for hint in error["hints"])
    assert not (tmp_path / "runs").exists()


LOADER = """
import os, resource, subprocess, sys
from pathlib import Path
import torch
from llmrun.core.batch import Batch
from llmrun.data.manifest import read_manifest
from llmrun.core.order import Order
from llmrun.data.shard_reader import open_split
from llmrun.core.loader import Loader, MicroBatches

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"], check=True)
directory = Path(sys.argv[1])
batch = Batch(gb_tok=1 << 18, mu_tok=1 << 18, L_ctx=64, V=1, D=1, T_tokens=1 << 21, warmup_tokens=0)
split = open_split(directory, read_manifest(directory), "train", batch.L_ctx, verify=True)
batches = MicroBatches(split, Order(42, split.n_windows), batch)
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, used + 12))
loader = Loader(batches, batch, 0, [0], range(batch.steps), seed=42, num_workers=1, on_worker_start=bool)
kept = [loader.next(step, 0).tokens for step in range(batch.steps)]
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, used + 12))
assert all(torch.equal(tokens, batches.tokens(step, 0)) for step, tokens in enumerate(kept))
print("right", len(kept))
os._exit(0)
"""


@needs_namespaces
@pytest.mark.timeout(120)
def test_tokens_need_neither_shared_memory_nor_descriptors(tmp_path, dataset_of_session):
    """Micro-batches of 1 MiB each, all kept, with 64 KiB of shared memory and 12 more descriptors."""
    command = in_namespace("true", sys.executable, "-c", LOADER, str(dataset_of_session))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    assert done.stdout.split() == ["right", "8"], done.stderr[-2000:]
