"""An MCP server with the official SDK for tests: tools of every kind of result and failure. No swift here."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from typing import Literal

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from pydantic import BaseModel, Field

WAITS: dict[str, list[float]] = {"began": [], "cancelled": []}
LOOK = ToolAnnotations(read_only_hint=True)


class Lamp(BaseModel):
    room: str = Field(description="The room it is in.")
    colour: Literal["white", "red"] = "white"


class Weather(BaseModel):
    degrees: float
    wet: bool


def house() -> MCPServer:
    server = MCPServer("house", log_level="CRITICAL")
    server.add_tool(process, annotations=LOOK)
    server.add_tool(weather, annotations=LOOK)
    server.add_tool(rooms, annotations=LOOK)
    server.add_tool(set_lamps, name="set lamps/🏠")
    for tool in (report, picture, manual, refuse, nothing, wait, waits, block, die, large, ask_user):
        server.add_tool(tool)

    @server.tool()
    async def build_room(name: str, context: Context) -> str:
        server.add_tool(lambda: f"in the {name}", name=name, description="A new room.")
        await context.notify_tools_changed()
        return "built"

    return server


def process() -> int:
    """The id of the server's process."""
    return os.getpid()


def weather() -> Weather:
    """The weather, as text and as structured content."""
    return Weather(degrees=12.5, wet=True)


def rooms(floor: int) -> list[str]:
    """The rooms of a floor."""
    return ["kitchen", "hall"] if floor == 0 else []


def set_lamps(lamps: list[Lamp]) -> str:
    """Set lamps."""
    return ", ".join(f"{lamp.room}: {lamp.colour}" for lamp in lamps)


def report() -> CallToolResult:
    """Text that is a summary of the structured content."""
    return CallToolResult(content=[TextContent(type="text", text="2 doors")], structured_content={"front": "open"})


def picture() -> CallToolResult:
    """A picture, a sound and a text."""
    return CallToolResult(
        content=[
            TextContent(type="text", text="the door:"),
            ImageContent(type="image", data=base64.b64encode(b"x" * 1234).decode(), mime_type="image/png"),
            AudioContent(type="audio", data=base64.b64encode(b"y" * 100).decode(), mime_type="audio/wav"),
        ]
    )


def manual() -> CallToolResult:
    """Resources."""
    text = TextResourceContents(uri="house://manual", text="Turn it off and on again.")
    blob = BlobResourceContents(uri="house://plan", blob=base64.b64encode(b"z" * 7).decode(), mime_type="image/tiff")
    return CallToolResult(
        content=[
            EmbeddedResource(type="resource", resource=text),
            EmbeddedResource(type="resource", resource=blob),
            ResourceLink(type="resource_link", uri="house://garden", name="garden"),
        ]
    )


def refuse() -> str:
    """Always an error."""
    raise ToolError("the door is locked")


def nothing() -> CallToolResult:
    """A result without content."""
    return CallToolResult(content=[])


async def wait(how_long: float) -> str:
    """Waits, and can be cancelled."""
    WAITS["began"].append(how_long)
    try:
        await asyncio.sleep(how_long)
    except asyncio.CancelledError:
        WAITS["cancelled"].append(how_long)
        raise
    return "waited"


def waits() -> dict[str, list[float]]:
    """The waits that began, and those that were cancelled."""
    return WAITS


async def block(how_long: float) -> str:
    """Blocks the whole server."""
    time.sleep(how_long)
    return "blocked"


def die() -> str:
    """Ends the server in the middle of the call."""
    print(
        "Traceback (most recent call last):\n  ...\n\x1b[31mKeyError\x1b[0m: 'cellar'\nbye", file=sys.stderr, flush=True
    )
    os._exit(3)


def large(characters: int) -> str:
    """A long text."""
    return "x" * characters


def ask_user() -> InputRequiredResult:
    """Asks the user before there is a result."""
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    asked = ElicitRequest(params=ElicitRequestFormParams(message="Really?", requested_schema=schema))
    return InputRequiredResult(input_requests={"sure": asked})


if __name__ == "__main__":
    house().run()
