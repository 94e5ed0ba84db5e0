"""What a rank imports, early or late: a warm process imports it once, and its forks need not."""

import gc

# Collecting would touch every object, and with it copy every page that a fork shares.
gc.collect()
gc.freeze()
