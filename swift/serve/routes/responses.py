"""Routes of OpenAI's Responses API. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from openai.types.responses import Response as ModelResponse
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from starlette.concurrency import run_in_threadpool

from swift.serve.bad_request import BadRequest, invalid
from swift.serve.chat_service import ChatService
from swift.serve.formats.responses_items import ItemReference, Resolved, new_id, read_stored
from swift.serve.formats.responses_request import LOGPROBS, ResponsesRequest
from swift.serve.formats.responses_response import ResponseOptions, ResponsesBuilder
from swift.serve.inner_request import InnerRequest
from swift.serve.reply_response import json_response
from swift.serve.response_builder import as_json
from swift.serve.routes.status import GET
from swift.serve.stored_responses import Item, Missing, StoredResponse, StoredResponses

PAGE, MAX_PAGE = 20, 100
Result = TypeVar("Result")


def add_responses_routes(app: FastAPI, chats: ChatService, store: StoredResponses) -> None:
    service = chats.service

    @app.post("/v1/responses")
    async def create(request: Request) -> Response:
        body = await service.read(request, ResponsesRequest)
        # On a thread: a dialogue that is continued may be long.
        own, inner = await run_in_threadpool(_translated, body, chats, store)
        params = inner.params(service.defaults)
        echoed = {**body.echoed, "temperature": params.temperature, "top_p": params.top_p}
        options = ResponseOptions(new_id("resp"), echoed, LOGPROBS in (body.include or ()))
        if body.store is not False:
            options = options._replace(keep=partial(_keep, store, [item.stored for item in own]))
        return await chats.respond(request, inner, ResponsesBuilder(options))

    @app.post("/v1/responses/input_tokens")
    async def input_tokens(request: Request) -> Response:
        body = await service.read(request, ResponsesRequest)
        _, inner = await run_in_threadpool(_translated, body, chats, store)
        count = InputTokenCountResponse(object="response.input_tokens", input_tokens=await chats.count_tokens(inner))
        return json_response(as_json(count))

    # One route for all methods: it names them in the Allow header.
    @app.api_route("/v1/responses/{response_id}", methods=[*GET, "DELETE"])
    async def retrieve_or_delete(request: Request, response_id: str) -> Response:
        service.api_keys.check(request)
        if request.method == "DELETE":
            await _stored(store.delete, response_id)
            return json_response(json.dumps({"id": response_id, "object": "response", "deleted": True}))
        if request.query_params.get("stream", "false").lower() not in ("false", "0", ""):
            raise BadRequest("stream: a stored response cannot be streamed again", param="stream")
        stored = await _stored(store.get, response_id)
        return json_response(json.dumps(stored.response, ensure_ascii=False))

    @app.post("/v1/responses/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> Response:
        service.api_keys.check(request)
        await _stored(store.get, response_id)
        raise BadRequest("Cannot cancel a synchronous response: only background responses can be cancelled")

    @app.api_route("/v1/responses/{response_id}/input_items", methods=GET)
    async def input_items(request: Request, response_id: str) -> Response:
        service.api_keys.check(request)
        query = request.query_params
        limit = query.get("limit", str(PAGE))
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_PAGE:
            raise invalid("limit", f"must be a number from 1 to {MAX_PAGE}, not {limit[:40]}")
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise invalid("order", f"must be asc or desc, not {order[:40]}")
        items = _input(await _stored(store.conversation, response_id))
        page = _page(items if order == "asc" else items[::-1], int(limit), query.get("after"))
        return json_response(json.dumps(page, ensure_ascii=False))


def _translated(
    body: ResponsesRequest, chats: ChatService, store: StoredResponses
) -> tuple[list[Resolved], InnerRequest]:
    """The request's own items, references resolved, and the whole request."""
    earlier: list[Item] = []
    if (previous := body.previous_response_id) is not None:
        try:
            conversation = store.conversation(previous)
        except Missing as missing:
            raise _no_previous(previous, str(missing.args[0])) from None
        earlier = [*_input(conversation), *conversation[-1].output]
    own: list[Resolved] = []
    for index, item in enumerate(body.input):
        if not isinstance(item, ItemReference):
            own.append(item)
        elif found := store.item(item.id):
            own += read_stored([found])
        else:
            message = f"Item with id '{item.id[:80]}' not found: it is not stored, or no longer"
            raise BadRequest(message, status=404, param=f"input[{index}].id")
    return own, chats.checked(body.inner(read_stored(earlier), own))


def _no_previous(previous: str, missing: str) -> BadRequest:
    message = f"Previous response with id '{previous[:80]}' not found: it is not stored, or no longer"
    if missing != previous:
        message = f"Previous response with id '{previous[:80]}' continues '{missing[:80]}', which is no longer stored"
    return BadRequest(message, param="previous_response_id", code="previous_response_not_found")


def _keep(store: StoredResponses, own: Sequence[Item], response: ModelResponse) -> None:
    store.put(json.loads(as_json(response)), own)


async def _stored(look_up: Callable[[str], Result], response_id: str) -> Result:
    try:
        return await run_in_threadpool(look_up, response_id)
    except Missing as missing:
        message = f"Response with id '{str(missing.args[0])[:80]}' not found: it is not stored, or no longer"
        raise BadRequest(message, status=404) from None


def _input(conversation: Sequence[StoredResponse]) -> list[Item]:
    """What the last response of a conversation answered: earlier inputs and outputs, and its own input."""
    items: list[Item] = []
    for stored in conversation[:-1]:
        items += [*stored.input, *stored.output]
    return items + conversation[-1].input


def _page(items: Sequence[Item], limit: int, after: str | None) -> dict[str, Any]:
    """Raises BadRequest for an `after` that is no item's id."""
    start = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise invalid("after", f"'{after[:80]}' is not an input item of this response")
        start = ids.index(after) + 1
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }
