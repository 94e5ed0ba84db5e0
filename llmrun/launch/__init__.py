"""From a config or a run to a finished segment: preflight, torchrun, watching, exits turned into words."""
