"""Everything that can change a bit of a training result, and nothing else.

The code part of a run's fingerprint is the normalised source of this package and of the user's own modules.  So it
imports nothing of llmrun but itself and the leaves `errors` and `text`, and takes plain frozen dataclasses: what is
computed here depends on the numeric fields that the fingerprint covers, on the tokens, and on the environment.
"""
