"""Fixtures of all tests that train."""

import pytest

from warm.driver import Driver, make_dataset
from warm.pool import PoolBackend, Server


@pytest.fixture(scope="session")
def server():
    """The warm process of this test session."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A small real dataset."""
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def driver(tmp_path, dataset, monkeypatch):
    """A place for runs, outside any repository."""
    monkeypatch.chdir(tmp_path)
    return Driver(tmp_path, dataset)


@pytest.fixture
def pool(server):
    """Workers forked from the warm process."""
    return PoolBackend(server)
