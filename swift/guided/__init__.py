"""Guided decoding: rules for a reply -> a grammar -> masks on logits. Knows no engine and no server."""
