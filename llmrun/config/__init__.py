"""The config: schema, loading, batch rules, presets, resolving.  Imports no torch."""
