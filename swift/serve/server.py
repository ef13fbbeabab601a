"""The app factory of the server. Knows no JSON shape and no model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.guided.guide import Guide
from swift.infer.chat import Chat
from swift.serve.api_keys import ApiKeys
from swift.serve.body_reader import LIMITS, Limits
from swift.serve.chat_service import ChatService, CountTokens, LoadImages
from swift.serve.error_bodies import REQUEST_ID
from swift.serve.error_handlers import InternalErrors, add_error_handlers
from swift.serve.metrics import Metrics, ReadFigures
from swift.serve.request_log import RequestLog
from swift.serve.routes.chat_completions import add_chat_routes
from swift.serve.routes.completions import Complete, add_completion_routes
from swift.serve.routes.messages import add_messages_routes
from swift.serve.routes.models import add_adapter_routes, add_model_routes
from swift.serve.routes.responses import add_responses_routes
from swift.serve.routes.status import add_status_routes
from swift.serve.routes.tokenization import Tokenization, add_tokenization_routes
from swift.serve.routes.unsupported import add_unsupported_routes
from swift.serve.served_models import AdapterHost, ServedModels
from swift.serve.service import CheckLength, Service
from swift.serve.stored_responses import StoredResponses
from swift.serve.structured_outputs import Guides


def create_app(
    chat: Chat,
    model_name: str,
    *,
    complete: Complete | None = None,
    guide: Callable[[Rules], Guide] | None = None,
    guide_tools: bool = False,
    adapters: AdapterHost | None = None,
    adapter_names: Iterable[str] = (),
    load_images: LoadImages | None = None,
    defaults: SamplingParams | None = None,
    api_keys: Collection[str] = (),
    allow_origins: Sequence[str] = (),
    check_length: CheckLength | None = None,
    template_variables: Collection[str] | None = None,
    figures: ReadFigures | None = None,
    count_tokens: CountTokens | None = None,
    tokenization: Tokenization | None = None,
    owned_by: str = "swift",
    store: StoredResponses | None = None,
    limits: Limits = LIMITS,
) -> FastAPI:
    """The app that serves `chat` as `model_name`. It has no interactive docs, which would load third-party scripts.

    Args:
        complete: continues plain text; None refuses /v1/completions.
        guide: builds the grammars for structured outputs and tool calls; None refuses requests that need one.
        guide_tools: hold calls to the offered tools in every request, not only in those that require it.
        adapters: the engine, if it can load LoRA adapters; `adapter_names` are those it has loaded already.
        load_images: loads the images of messages; None refuses messages with images.
        defaults: sampling parameters of requests that do not set them, stop strings included.
        api_keys: keys that clients must send; without any, every request is served.
        allow_origins: origins of web pages whose scripts may send requests (CORS); "*" is all of them.
        check_length: refuses prompts that are too long before they are tokenised.
        template_variables: variables that the chat template reads; requests that set others are logged. None: unknown.
        tokenization: texts and dialogues <-> token ids; None refuses /tokenize and /detokenize.
        figures: what the engine does, for the metrics; None: they show what the server itself counts.
        count_tokens: counts the tokens of prompts; None refuses /v1/messages/count_tokens.
        store: where responses of /v1/responses are kept; None: in memory.
    """
    app = FastAPI(title="swift", docs_url=None, redoc_url=None, openapi_url=None)
    models = ServedModels(model_name, owned_by, adapter_names)
    service = Service(models, ApiKeys(api_keys), limits, defaults or SamplingParams(), check_length)
    metrics = Metrics(service.replies, model_name, figures)
    service.replies.on_gap = metrics.gap
    app.add_middleware(InternalErrors)  # the innermost: those that follow see its responses
    if allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "WWW-Authenticate", REQUEST_ID],
        )
    app.add_middleware(RequestLog, metrics=metrics)
    add_error_handlers(app)
    add_status_routes(app, metrics)
    add_model_routes(app, service)
    guide_tools = guide_tools and guide is not None
    chats = ChatService(service, chat, Guides(guide), guide_tools, load_images, template_variables, count_tokens)
    add_chat_routes(app, chats)
    add_messages_routes(app, chats)
    add_responses_routes(app, chats, store or StoredResponses())
    add_completion_routes(app, service, complete)
    add_tokenization_routes(app, chats, tokenization)
    add_unsupported_routes(app, service.api_keys)
    add_adapter_routes(app, service, adapters)
    return app
