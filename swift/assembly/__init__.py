"""Flags -> renderer, data, model, engine, trainer: what several commands assemble. Knows no command line."""
