"""What a rank imports, early or late: a warm process imports it once, and its forks need not."""

import gc

import llmrun.train.session
import llmrun.train.strategies  # noqa: F401

# Collecting would touch every object, and with it copy every page that a fork shares.
gc.collect()
gc.freeze()
