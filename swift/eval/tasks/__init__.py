"""One file (or folder) a task: its questions and its judge."""
