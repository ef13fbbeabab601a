"""Routes about models: the list, a model card, loading and unloading LoRA adapters (vLLM's routes)."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from swift.serve.bad_request import BadRequest
from swift.serve.formats.adapter_requests import LoadRequest, UnloadRequest
from swift.serve.formats.model_cards import model_list
from swift.serve.reply_response import json_response
from swift.serve.response_builder import as_json
from swift.serve.routes.status import GET
from swift.serve.served_models import AdapterHost
from swift.serve.service import Service


def add_model_routes(app: FastAPI, service: Service) -> None:
    @app.api_route("/v1/models", methods=GET)
    async def list_models(request: Request) -> Response:
        service.api_keys.check(request)
        return json_response(model_list(list(service.models)))

    @app.api_route("/v1/models/{name:path}", methods=GET)
    async def model(request: Request, name: str) -> Response:
        service.api_keys.check(request)
        return json_response(as_json(service.models.find(name)))


def add_adapter_routes(app: FastAPI, service: Service, host: AdapterHost | None) -> None:
    """`host` None: the engine has no adapters, and the routes refuse."""
    changing = asyncio.Lock()  # one change at a time
    models = service.models

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        adapters = _allowed(host, service)
        body = await service.read(request, LoadRequest)
        async with changing:
            if body.lora_name in models:
                raise BadRequest(f"lora_name: a model named '{body.lora_name}' already exists", param="lora_name")
            try:
                await run_in_threadpool(adapters.add_adapter, body.lora_name, body.lora_path)
            except (ValueError, OSError) as error:
                raise BadRequest(f"lora_path: {error}", param="lora_path") from error
            models.add(body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.", media_type="text/plain")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        adapters = _allowed(host, service)
        body = await service.read(request, UnloadRequest)
        async with changing:
            if not models.adapter(body.lora_name):
                raise BadRequest(f"lora_name: '{body.lora_name}' is the base model", param="lora_name")
            models.remove(body.lora_name)  # first, so that no new request names it
            await run_in_threadpool(adapters.remove_adapter, body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", media_type="text/plain")


def _allowed(host: AdapterHost | None, service: Service) -> AdapterHost:
    if host is None:
        raise BadRequest("this engine does not support LoRA adapters", status=404)
    if not service.api_keys:
        raise BadRequest(
            "adapters can only be changed on a server with an API key: start it with --api_key", status=403
        )
    return host
