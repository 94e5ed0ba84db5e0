"""`llmrun check`: a few real steps of a config, executed in several ways that must give the same bits."""
