"""Every attempt, in the order of its table."""

from falsify import (
    by_byte_code,
    by_config,
    by_data,
    by_edits,
    by_history,
    by_libraries,
    by_modules,
    by_surroundings,
    by_variables,
)

FAMILIES = {
    "environment variables": by_variables.ATTEMPTS,
    "libraries": by_libraries.ATTEMPTS,
    "Python modules": by_modules.ATTEMPTS,
    "byte code": by_byte_code.ATTEMPTS,
    "edits while a run goes on": by_edits.ATTEMPTS,
    "surroundings": by_surroundings.ATTEMPTS,
    "data": by_data.ATTEMPTS,
    "config": by_config.ATTEMPTS,
    "history": by_history.ATTEMPTS,
}
ATTEMPTS = tuple(attempt for attempts in FAMILIES.values() for attempt in attempts)
