"""Token ids in, token ids out: schedulers, caches and runners. Knows no text, no chat and no tools."""
