"""An MCP server that keeps notes as Markdown files of a folder: `python examples/agent/notes_mcp.py notes`.

Needs the official SDK (`pip install mcp`) and nothing of SWIFT: any MCP client can use it. `--port` serves streamable
HTTP at `http://127.0.0.1:PORT/mcp`; without it the server speaks on standard input and output.
"""

import argparse
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class Note:
    """A note without its text."""

    name: str
    words: int
    changed: str


def notes_server(folder: Path) -> MCPServer:
    """A server for the notes of `folder`, which is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    server = MCPServer("notes", instructions="Notes of the user, by name.", log_level="WARNING")

    def file(name: str, must_exist: bool = True) -> Path:
        if not re.fullmatch(r"[\w][\w -]{0,79}", name):
            raise ToolError(f"'{name}' is no name of a note: letters, digits, spaces, _ and - are allowed")
        path = folder / f"{name}.md"
        if must_exist and not path.is_file():
            known = ", ".join(sorted(each.stem for each in folder.glob("*.md"))) or "none"
            raise ToolError(f"there is no note '{name}'; the notes are: {known}")
        return path

    @server.tool(annotations=READS)
    def list_notes() -> list[Note]:
        """List the notes: name, number of words, and when each was changed."""
        return [
            Note(
                name=path.stem,
                words=len(path.read_text(encoding="utf-8").split()),
                changed=f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}",
            )
            for path in sorted(folder.glob("*.md"))
        ]

    @server.tool(annotations=READS)
    def read_note(name: str) -> str:
        """Read the text of a note."""
        return file(name).read_text(encoding="utf-8")

    @server.tool(annotations=READS)
    def search_notes(text: str) -> list[str]:
        """Find the lines of all notes that contain a text, in upper or lower case."""
        return [
            f"{path.stem}: {line.strip()}"
            for path in sorted(folder.glob("*.md"))
            for line in path.read_text(encoding="utf-8").splitlines()
            if text.casefold() in line.casefold()
        ]

    @server.tool(annotations=WRITES)
    def write_note(name: str, text: str) -> str:
        """Write a note. Replaces the text of a note that exists."""
        path = file(name, must_exist=False)
        is_new = not path.exists()
        path.write_text(text, encoding="utf-8")
        return f"{'wrote' if is_new else 'replaced'} '{name}' ({len(text.split())} words)"

    @server.tool(annotations=WRITES)
    def delete_note(name: str) -> str:
        """Delete a note."""
        file(name).unlink()
        return f"deleted '{name}'"

    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the notes are")
    parser.add_argument("--port", type=int, help="serve HTTP on this port of 127.0.0.1, not standard input and output")
    options = parser.parse_args()
    notes = notes_server(options.folder)
    if options.port is None:
        notes.run()
    else:
        notes.run("streamable-http", host="127.0.0.1", port=options.port)
