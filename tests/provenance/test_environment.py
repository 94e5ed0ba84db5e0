"""environment.json: what is kept, and that no secret is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.provenance.environment import environment_document, variables_kept


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "SLURM_JWT",
        "CUDA_AUTH",
        "NCCL_API_KEY",
        "TORCH_PASSWORD",
        "HOME",
        "PATH",
    ],
)
def test_secrets_and_strangers_are_not_kept(name):
    """Neither what is not on the list nor what sounds like a secret, whatever its prefix."""
    assert variables_kept({name: "s3cret"}) == {}


@pytest.mark.parametrize(
    "name",
    ["NCCL_ALGO", "OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "SLURM_JOB_ID", "TOKENIZERS_PARALLELISM"],
)
def test_what_matters_is_kept(name):
    """Variables of the libraries below us, and the batch system's job."""
    assert variables_kept({name: "1"}) == {name: "1"}


@given(st.dictionaries(st.text(), st.text()))
def test_nothing_is_invented(environment):
    """What is kept is a part of what is there."""
    assert variables_kept(environment).items() <= environment.items()


def test_an_address_with_credentials_is_not_kept():
    """A variable on the list may still hold a password."""
    assert variables_kept({"NCCL_NET": "http://u:s3cret@host/"}) == {}


def test_the_document_has_both_halves_and_the_machine():
    """Digested and recorded facts stand apart."""
    document = environment_document({"torch": "2.13.0"}, {"nccl": "2.27"}, {"OMP_NUM_THREADS": "1", "X": "y"})

    assert document["format"] == "llmrun-environment/1"
    assert (document["digested"], document["recorded"]) == ({"torch": "2.13.0"}, {"nccl": "2.27"})
    assert document["variables"] == {"OMP_NUM_THREADS": "1"}
    assert document["machine"]["memory_bytes"] > 0
