"""environment.json: what is kept, and that no secret is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.provenance.snapshot import environment_document
from llmrun.provenance.variables import variables_kept


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "SLURM_JWT",
        "CUDA_AUTH",
        "NCCL_API_KEY",
        "TORCH_PASSWORD",
        "NCCL_KEY",
        "TRITON_SIGNING_KEY",
        "CUDA_PWD",
        "GLOO_COOKIE",
        "NCCL_SIGNATURE",
        "UCX_BEARER",
        "PYTORCH_PAT",
        "TORCH_PAT_FILE",
        "HOME",
        "PATH",
    ],
)
def test_secrets_and_strangers_are_not_kept(name):
    """Neither what is not on the list nor what sounds like a secret, whatever its prefix."""
    assert variables_kept({name: "s3cret"}) == {}


@pytest.mark.parametrize(
    "name",
    [
        "NCCL_ALGO",
        "NCCL_PATH",
        "OMP_NUM_THREADS",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUBLASLT_WORKSPACE_SIZE",
        "GLIBC_TUNABLES",
        "SLURM_JOB_ID",
        "TOKENIZERS_PARALLELISM",
    ],
)
def test_what_matters_is_kept(name):
    """Variables of the libraries below us, and the batch system's job."""
    assert variables_kept({name: "1"}) == {name: "1"}


@given(st.dictionaries(st.text(), st.text()))
def test_nothing_is_invented(environment):
    """What is kept is a part of what is there."""
    assert variables_kept(environment).items() <= environment.items()


@pytest.mark.parametrize(
    "value",
    [
        "http://u:s3cret@host/",
        "ghp_" + "0" * 36,
        "token=gho_" + "0" * 36,
        "github_pat_" + "0" * 36,
        "glpat-" + "0" * 20,
        "sk-" + "0" * 20,
        "AKIA" + "0" * 16,
    ],
)
def test_a_value_that_is_a_secret_is_not_kept(value):
    """A variable on the list may still hold a password or a key."""
    assert variables_kept({"NCCL_NET": value}) == {}


@pytest.mark.parametrize("value", ["/mnt/disk-00000000/lib", "/opt/mask-rcnn-0000", "ghp_", "http://host/"])
def test_a_value_that_only_looks_like_a_secret_is_kept(value):
    """Part of a word is no key."""
    assert variables_kept({"NCCL_NET": value}) == {"NCCL_NET": value}


def test_the_document_has_both_halves_and_the_machine():
    """Digested and recorded facts stand apart."""
    document = environment_document({"torch": "2.13.0"}, {"nccl": "2.27"}, {"OMP_NUM_THREADS": "1", "X": "y"})

    assert document["format"] == "llmrun-environment/1"
    assert (document["digested"], document["recorded"]) == ({"torch": "2.13.0"}, {"nccl": "2.27"})
    assert document["variables"] == {"OMP_NUM_THREADS": "1"}
    assert document["machine"]["memory_bytes"] > 0
