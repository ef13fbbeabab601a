"""The routes of the server, one subject a file. Each `add_*_routes` registers its routes with an app."""
