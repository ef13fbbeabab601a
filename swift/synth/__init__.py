"""Invented conversations for tools: a catalogue of functions, values, phrasings, kinds of rounds, and their checks."""
