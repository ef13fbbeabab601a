"""The tools of an MCP server. Knows no model and no dialogue."""
