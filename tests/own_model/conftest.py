"""Tests here train a model of the user's own."""

import pytest

from own_model.project import CONFIG, MODEL, PARTS
from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "own", "pool", "server"]


@pytest.fixture
def own(driver, dataset):
    """A driver whose config names the model above, in a directory that is not the working directory."""
    place = driver.directory / "project"
    place.mkdir()
    (place / "model.py").write_text(MODEL)
    (place / "parts.py").write_text(PARTS)
    driver.config = place / "config.yaml"
    driver.config.write_text(CONFIG.replace("DATA", str(dataset)))
    return driver
