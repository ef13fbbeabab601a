"""An MCP server of 2025-06-18 in plain Python for tests, for what the official SDK does not do: pages and bad manners.

Its arguments are what it does wrong: `banner`, `garbage`, `mute`, `refuses`, `repeats` (endless pages), `no_tools`,
`broken_schema`, `evil` (its name).
"""

import json
import os
import sys

MANNERS = set(sys.argv[1:])
TOOLS = [
    *(
        {"name": each, "inputSchema": {"type": "object"}}
        for each in ("pid", "grow", "ask", "lamp.on", "lamp_on", "x" * 80)
    ),
    {
        **{"name": "promise", "inputSchema": {"type": "object"}},
        "outputSchema": {"type": "object", "properties": {"count": {"type": "integer"}}},
    },
]
ASKED = {
    "ping": {},
    "elicitation/create": {"message": "Really?", "requestedSchema": {"type": "object", "properties": {}}},
    "sampling/createMessage": {"messages": [], "maxTokens": 10},
    "roots/list": {},
}


def send(**message: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def asked(method: str) -> str:
    """What the client answers to a request of the server."""
    send(id=method, method=method, params=ASKED[method])
    while (message := json.loads(sys.stdin.readline())).get("id") != method:
        pass
    return message.get("error", {}).get("message", "it agreed")


def answer(method: str, params: dict) -> dict:
    if method == "initialize":
        capabilities = {} if "no_tools" in MANNERS else {"tools": {"listChanged": True}}
        server = {"name": "\x1b[31mevil\n" if "evil" in MANNERS else "old", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": server}
    if method == "tools/list":
        at = int(params.get("cursor", 0))
        more = at + 2 < len(TOOLS) or "repeats" in MANNERS
        return {"tools": TOOLS[at : at + 2], **({"nextCursor": str(at + 2)} if more else {})}
    if params["name"] == "grow":
        TOOLS.append({"name": f"tool_{len(TOOLS)}", "description": "New.", "inputSchema": {"type": "object"}})
        send(method="notifications/tools/list_changed")
    if params["name"] == "promise":
        return {"content": [{"type": "text", "text": "one"}], "structuredContent": {"count": "one"}}
    if params["name"] == "ask":
        return {"content": [{"type": "text", "text": "; ".join(map(asked, ASKED))}]}
    said = str(os.getpid()) if params["name"] == "pid" else params["name"]
    return {"content": [{"type": "text", "text": said}]}


if "garbage" in MANNERS:
    print("this is no server\n" * 200, flush=True)
if "banner" in MANNERS:
    print("*** welcome ***", flush=True)
if "broken_schema" in MANNERS:
    TOOLS.append({"name": "broken", "inputSchema": {"type": "object", "properties": {"a": {"type": "no type"}}}})
for line in sys.stdin:
    if "mute" in MANNERS:
        continue
    request = json.loads(line)
    if "id" not in request:
        continue
    if request["method"] == "server/discover":
        send(id=request["id"], error={"code": -32601, "message": "Method not found"})
    elif "refuses" in MANNERS:
        send(id=request["id"], error={"code": -32000, "message": "no licence"})
    else:
        send(id=request["id"], result=answer(request["method"], request.get("params", {})))
