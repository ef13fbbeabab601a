"""Unattended runs of the agent loop: tasks in, traces out, and their review. Knows no model and no engine."""
