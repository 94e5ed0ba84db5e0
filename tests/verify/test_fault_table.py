"""Seeded faults in real runs: `verify` names step, quantity, tensors and module that were worked out beforehand."""

import shutil

import pytest

from faults.bench import Bench
from faults.rows import FAULTS
from faults.table import differences


@pytest.fixture(scope="module")
def bench(server, tmp_path_factory):
    """A place for all rows: the undisturbed runs are trained once."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("faults")
        patch.chdir(directory)
        yield Bench(directory, server)


SLOW = {"one gradient element by 1 ulp", "wrong seed", "backward pass of one module", "other instruction set"}
ROWS = [
    pytest.param(fault, id=fault.name.replace(" ", "-"), marks=pytest.mark.slow if fault.name in SLOW else ())
    for fault in FAULTS
]


@pytest.mark.parametrize("fault", ROWS)
def test_a_seeded_fault_is_found(bench, fault):
    """Exactly what is expected, and in the words of the screen."""
    a, b = fault.make(bench, fault.name.replace(" ", "-"))

    assert differences(fault.expected, bench.verify(a, b)) == []


def test_where_the_dataset_is_gone_the_order_is_not_told(bench, monkeypatch):
    """The difference is, and a guess; one run's dataset is enough for both."""
    a = bench.straight()
    copy = bench.copy_of_data("copy")
    b = bench.train_until(8, "gone", f"data.path={copy}", mutation="shift_samples", step=7, by=-1)
    shutil.rmtree(copy)
    assert "are 1 place earlier" in bench.verify(a, b).finding.diagnosis

    (bench.directory / "data").rename(bench.directory / "elsewhere")
    try:
        message = bench.verify(a, b).finding.diagnosis
    finally:
        (bench.directory / "elsewhere").rename(bench.directory / "data")
    assert message.startswith(
        "data order differs from step 7 although dataset and seed are equal: another order of samples, or other tokens;"
    )


def test_the_undisturbed_run_is_equal_to_another(bench):
    """Nothing is found where there is nothing."""
    assert bench.verify(bench.straight(), bench.train_until(8, "again", "batch.V=4", "batch.D=2")).equal
