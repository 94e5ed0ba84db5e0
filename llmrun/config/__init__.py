"""Schema, quantities, batch algebra, loading: what a run is, in the user's own symbols (no torch)."""
