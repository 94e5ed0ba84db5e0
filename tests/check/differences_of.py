"""Traces in short form."""

from llmrun.run.trace import TraceEntry


def entries(*texts: str) -> list[TraceEntry]:
    """`MICRO_BATCH PHASE MODULE DIGEST` as the entry of an output in step 1."""
    found = []
    for text in texts:
        micro_batch, phase, module, digest = text.split()
        found.append(TraceEntry(1, int(micro_batch), phase, module, "output", "float32", (2,), int(digest)))
    return found
