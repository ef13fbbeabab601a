"""The pages: a module each, with `content(studio)`."""
