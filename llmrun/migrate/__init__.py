"""Migrates a checkpoint to another architecture: the user's script maps tensors by name."""
