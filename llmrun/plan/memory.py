"""Memory of one rank, part by part, at the moment of a step when it is largest: pure functions of integers.

What allocators round up or leave unused between blocks is not counted.
"""

from llmrun.config.shape import ModelShape
from llmrun.plan.memory_moments import largest_moment
from llmrun.plan.memory_parts import Memory, MemoryPart, Setting
from llmrun.plan.memory_state import checkpoint_buffer, state_parts
from llmrun.plan.parameters import count_parameters

__all__ = ["Memory", "MemoryPart", "Setting", "memory_of"]


def memory_of(shape: ModelShape, setting: Setting) -> Memory:
    """Every part of one rank's memory."""
    N = count_parameters(shape).N_params_total
    moment = largest_moment(shape, setting, N)
    parts = (*state_parts(setting, N), *moment.parts)
    return Memory(parts, checkpoint_buffer(setting, N), moment.says)
