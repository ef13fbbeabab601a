"""Guided decoding: what a reply must be -> a grammar -> masks on logits. Knows no engine and no server."""
