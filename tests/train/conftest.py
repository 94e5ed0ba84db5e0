"""Tests here train."""

from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]
