"""HTML pages in one file each: a document, its elements, charts and dialogues. Knows no run and no model."""
