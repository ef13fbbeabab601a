"""Tools that run: where they come from, how they are called, and the agent loop. Knows no model and no format."""
