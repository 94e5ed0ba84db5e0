"""llmrun: reproducible, resumable, observable LLM pre-training.  Same fingerprint, same bits."""

__version__ = "0.1.0"
