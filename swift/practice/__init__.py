"""Learning by doing: tasks with known right calls, samples, what is kept of them, and figures. Trains nothing."""
