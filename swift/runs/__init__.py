"""Training runs as folders and processes: their record, how they are found, stopped and resumed. Knows no model."""
