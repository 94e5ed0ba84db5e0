"""Tests here train a model of the user's own."""

from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]
