"""What a worker's exception means: its own failure, another rank's, or a bug."""

import pytest
import torch

from llmrun.errors import EXIT_BUG, OtherRankError, RunFailedError
from llmrun.runtime.worker import as_known

GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    "text",
    [
        f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:11143. This is typically caused by …",
        f"{GLOO}pair.cc:446] writev [127.0.0.1]:4021: Broken pipe",
        f"{GLOO}pair.cc:534] Read error [127.0.0.1]:4021: Connection reset by peer",
    ],
)
def test_a_peer_that_went_away_is_a_consequence(text):
    """Whatever gloo says where the other side is gone is never the first cause."""
    known = as_known(RuntimeError(text))

    assert type(known) is OtherRankError
    assert known.caused_by == (text,)


@pytest.mark.parametrize(
    "text",
    [
        f"{GLOO}unbound_buffer.cc:129] Timed out waiting 1800000ms for send operation to complete",
        "Application timeout caused pair closure",
    ],
)
def test_a_rank_that_hangs_is_a_failure_of_its_own(text):
    """Gloo's two time-outs say that a rank gave no answer, exit code 4, and no consequence."""
    known = as_known(RuntimeError(text))

    assert type(known) is RunFailedError
    assert known.message == "a rank hung: no answer in 30 minutes"
    assert known.caused_by == (text,)


def test_an_operation_without_a_deterministic_form_fails_the_run():
    """Torch refuses it in the middle of a run, which can be resumed: exit code 4."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as refused:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)

    known = as_known(refused.value)

    assert type(known) is RunFailedError
    assert known.message == "an operation has no deterministic implementation on this device"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a shape is wrong"), ValueError("a gloomy value"), AssertionError("Timed out waiting")],
)
def test_anything_else_is_a_bug(error):
    """What nobody foresaw is a bug, with exit code 70."""
    assert as_known(error).exit_code == EXIT_BUG
