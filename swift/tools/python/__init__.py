"""The public functions of a Python file as tools, in a worker process. Knows no model and no dialogue."""
