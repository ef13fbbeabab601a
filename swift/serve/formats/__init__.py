"""Wire formats: each translates request bodies into an InnerRequest and deltas into responses, in files of its own."""
