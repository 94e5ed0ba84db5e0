"""Carries a checkpoint across a change of architecture: the user's script maps tensors by name."""
