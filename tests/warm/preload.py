"""What a rank imports, early or late: a warm process imports it once, and its forks need not."""

import gc

from llmrun.launch.agent import import_early


def preload() -> None:
    """Import it, and freeze the objects: collecting would touch every one, and copy every page that a fork shares."""
    import_early()
    import torch.utils.tensorboard  # noqa: F401

    gc.collect()
    gc.freeze()
