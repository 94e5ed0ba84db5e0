"""Tests here write text with a model that was trained a few steps."""

from warm.fixtures import dataset, driver, pool, server

__all__ = ["dataset", "driver", "pool", "server"]
