"""What the process and its machine give: caches, hubs, encodings, launchers. Knows no model and no row."""
