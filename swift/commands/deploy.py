"""Serve a model over an OpenAI-compatible HTTP API."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from swift import flags, images
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags, check_engine
from swift.flags import flag
from swift.system.nearest import nearest_path

if TYPE_CHECKING:
    from fastapi import FastAPI

    from swift.infer.context_limit import ContextLimit
    from swift.infer.local_chat import LocalChat
    from swift.serve.stored_responses import StoredResponses

KEY_VARIABLE = "SWIFT_API_KEY"
LOCAL = ("127.0.0.1", "localhost", "::1")
STALL = 60
"""Seconds after which a client that reads nothing of its reply is disconnected."""
DRAIN = 30
"""Seconds that running replies get to finish on shutdown."""


@dataclass(frozen=True)
class ServerFlags:
    """Server"""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all network interfaces"""
    port: int = 8000
    """Port to listen on; 0 selects a free one"""
    api_key: str | None = None
    """Key that clients must send; without any key there is no authentication"""
    api_key_file: str | None = None
    """File of further keys, one per line; the environment variable SWIFT_API_KEY adds one more"""
    allow_origins: tuple[str, ...] = ()
    """Origins allowed by CORS, such as https://app.example; '*' allows all"""
    served_model_name: str | None = None
    """Model name in the API; none means its model_type"""
    owned_by: str = "swift"
    """Owner of the model in the API"""
    lora_modules: tuple[str, ...] = flag((), alias=("vllm_lora_modules",))
    """Adapters to serve in addition to the model, NAME=FOLDER each; requests select one by its name"""
    guided_tools: bool = False
    """Constrain tool calls to the offered tools and their schemas in every request, not only on request"""
    raw_react: bool = False
    """Return reasoning as part of the content, as the model writes it, instead of as reasoning_content"""
    max_queue: int = 256
    """Maximum number of waiting requests; further ones are refused with status 429"""
    store: str | None = None
    """SQLite file that keeps the responses of /v1/responses; none keeps them in memory, until the server ends"""
    log_format: Literal["text", "json"] = "text"
    """Format of the request log"""
    allowed_local_media_path: str | None = None
    """Folder from which requests may load images by path; none refuses paths"""
    fetch_images: Literal["public", "any", "none"] = "public"
    """Images by URL: from public addresses, from any address, or none"""
    ssl_keyfile: str | None = None
    """Private key for HTTPS"""
    ssl_certfile: str | None = None
    """Certificate for HTTPS"""

    def __post_init__(self) -> None:
        """Raises ValueError for invalid values."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: {self.port} is not a port (0 to 65535)")
        if self.api_key is not None and not self.api_key.strip():
            raise ValueError("--api_key is empty: leave the flag out for no authentication")
        for origin in self.allow_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"--allow_origins {origin}: expected SCHEME://HOST without a path, or '*'")
        if self.served_model_name is not None and not self.served_model_name.strip():
            raise ValueError("--served_model_name is empty")
        if self.max_queue < 1:
            raise ValueError(f"--max_queue {self.max_queue}: must be 1 or more")
        names = [module.partition("=")[0] for module in self.lora_modules]
        for module, name in zip(self.lora_modules, names, strict=True):
            if not name or "=" not in module or module.endswith("="):
                raise ValueError(f"--lora_modules {module}: expected NAME=FOLDER")
            if names.count(name) > 1 or name == self.served_model_name:
                raise ValueError(f"--lora_modules: '{name}' is used twice")
        media = self.allowed_local_media_path
        if media and not Path(media).expanduser().is_dir():
            raise ValueError(f"--allowed_local_media_path {media}: no such folder{nearest_path(media)}")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("--ssl_keyfile needs --ssl_certfile")


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift deploy --model smollm2-135m-agent --api_key SECRET"
    most_used: ClassVar[tuple[str, ...]] = (
        "model_id_or_path",
        "ckpt_dir",
        "host",
        "port",
        "api_key",
        "served_model_name",
        "lora_modules",
        "infer_backend",
        "max_model_len",
        "guided_tools",
    )

    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags()
    generation: GenerationFlags = GenerationFlags()
    backend: BackendFlags = BackendFlags()
    server: ServerFlags = ServerFlags()

    def __post_init__(self) -> None:
        check_engine(self.server.guided_tools, self.generation, self.backend)

    @property
    def vllm_log(self) -> None:
        """vLLM logs to standard error, like the server."""


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift deploy")
    main(parsed.config, parsed.given)


def main(cfg: Config, given: Collection[str] = ()) -> None:
    """Serves until SIGINT or SIGTERM. Raises ValueError for wrong flags before the model is loaded."""
    from swift.assembly.calibrated_adapters import CalibratedAdapters
    from swift.assembly.checkpoints import model_name
    from swift.assembly.loading import load_chat, sampling
    from swift.engine.torch_engine import TorchEngine
    from swift.infer.local_chat import LocalChat
    from swift.infer.prompt_tokens import PromptTokens
    from swift.serve.body_reader import LIMITS
    from swift.serve.server import create_app

    if not cfg.generation.stream:
        raise ValueError("--stream false: each request decides whether its reply is streamed")
    _check_certificate(cfg.server)
    defaults = sampling(cfg.generation)
    keys = api_keys(cfg.server)
    with _bound(cfg.server) as listening, closing(_store(cfg.server.store)) as store:
        name = cfg.server.served_model_name or model_name(cfg, given)
        if not keys and cfg.server.host not in LOCAL:
            _warn(f"anyone who can reach {cfg.server.host} can use the model; --api_key requires a key")
        adapters = dict(module.split("=", 1) for module in cfg.server.lora_modules)
        if name in adapters:
            raise ValueError(f"--lora_modules: '{name}' is the name of the model itself: rename the adapter")
        for adapter, folder in adapters.items():
            if not (Path(folder).expanduser() / "adapter_config.json").is_file():
                near = nearest_path(folder)
                raise ValueError(f"--lora_modules {adapter}={folder}: it has no adapter_config.json{near}")
        chat = load_chat(cfg, given)
        if cfg.server.raw_react:
            chat = LocalChat(chat.engine, chat.renderer, raw=True, calibrations=chat.calibrations)
        with closing(chat.engine) as engine:
            host = CalibratedAdapters(engine, chat) if isinstance(engine, TorchEngine) else None
            if adapters and host is None:
                raise ValueError("--lora_modules is for --infer_backend pt")
            for adapter, folder in adapters.items():
                assert host is not None
                host.add_adapter(adapter, folder)
            app = create_app(
                chat,
                name,
                complete=chat.complete,
                guide=chat.guide,
                guide_tools=cfg.server.guided_tools,
                adapters=host,
                adapter_names=adapters,
                load_images=partial(images.read_all, access=access(cfg.server))
                if chat.renderer.image_processor
                else None,
                defaults=defaults,
                api_keys=keys,
                allow_origins=cfg.server.allow_origins,
                check_length=_context_limit(chat).check,
                template_variables=chat.renderer.variables,
                tokenization=PromptTokens(chat.renderer, engine.context),
                figures=engine.figures if isinstance(engine, TorchEngine) else None,
                count_tokens=chat.count_tokens,
                owned_by=cfg.server.owned_by,
                store=store,
                limits=LIMITS._replace(queue=cfg.server.max_queue),
            )
            serve(app, listening, cfg.server)


def api_keys(options: ServerFlags) -> tuple[str, ...]:
    """The keys of the flag, the file and the environment. Raises ValueError for a file without keys."""
    keys = [options.api_key or "", os.environ.get(KEY_VARIABLE, "")]
    if options.api_key_file is not None:
        path = Path(options.api_key_file).expanduser()
        if not path.is_file():
            raise ValueError(f"--api_key_file {options.api_key_file}: no such file{nearest_path(path)}")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        if not any(lines):
            raise ValueError(f"--api_key_file {options.api_key_file}: no key found; expected one per line")
        keys += lines
    return tuple(dict.fromkeys(key.strip() for key in keys if key.strip()))


def _store(path: str | None) -> StoredResponses:
    """Raises ValueError for a file that is not a store, or that cannot be written."""
    from swift.serve.stored_responses import StoredResponses

    try:
        return StoredResponses() if path is None else StoredResponses(path)
    except OSError as error:
        raise OSError(f"--store {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"--store {error}") from error


def _context_limit(chat: LocalChat) -> ContextLimit:
    from swift.infer.context_limit import ContextLimit

    trims = chat.renderer.uses_tokenizer_template  # many templates trim each message
    return ContextLimit(chat.renderer.tokenizer, chat.engine.context, trims)


def access(options: ServerFlags) -> images.Access:
    """Where requests may load images from."""
    folder = options.allowed_local_media_path
    path = Path(folder).expanduser().absolute() if folder else None
    return images.Access(path, within=True, network=options.fetch_images)


def serve(app: FastAPI, listening: socket.socket, options: ServerFlags) -> None:
    """Serves on `listening`; on SIGINT or SIGTERM running replies get `DRAIN` seconds to finish."""
    import uvicorn

    from swift.serve.connection_limits import BACKLOG, MAX_HEAD, RESERVED_FILES, LimitedProtocol, OpenConnections
    from swift.system.open_files import raise_limit

    files = raise_limit()
    if files < 2 * RESERVED_FILES:
        _warn(f"the limit of open files is {files} (ulimit -n): few clients can be connected at once")
    connections = OpenConnections(max(files - RESERVED_FILES, files // 2))
    config = uvicorn.Config(
        app,
        http=partial(LimitedProtocol, connections),
        h11_max_incomplete_event_size=MAX_HEAD,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        ssl_keyfile=options.ssl_keyfile,
        ssl_certfile=options.ssl_certfile,
        timeout_graceful_shutdown=DRAIN,
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
        if server.started:
            url = _url(listening, options)
            print(f"swift: ready at {url}", flush=True)
            if options.log_format == "json":
                logging.getLogger("swift.serve").info("ready", extra={"fields": {"message": "ready", "url": url}})
        await serving

    with _request_log(options.log_format), _quiet_end():
        asyncio.run(run())


def _warn(what: str) -> None:
    print(f"swift: warning: {what}", file=sys.stderr)


def _bound(options: ServerFlags) -> socket.socket:
    """A socket bound to the port, before anything slow is done; nobody can connect yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        # reuses a port that a server has just released
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: disconnects clients that read nothing for this long
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALL * 1000)
        try:
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise OSError(f"cannot listen on {options.host}, port {options.port}: {error.strerror}") from error
    return listening


def _check_certificate(options: ServerFlags) -> None:
    if not options.ssl_certfile:
        return
    for path in filter(None, (options.ssl_certfile, options.ssl_keyfile)):
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file{nearest_path(path)}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    except ssl.SSLError as error:
        why = error.reason or "not a PEM file"
        raise ValueError(f"{options.ssl_certfile}: not a certificate with its key ({why})") from error


def _url(listening: socket.socket, options: ServerFlags) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{'https' if options.ssl_certfile else 'http'}://{host}:{listening.getsockname()[1]}/v1"


@contextmanager
def _request_log(form: str) -> Iterator[None]:
    """Logs the server's own lines, and no others, to standard error."""
    from swift.serve.request_log import JsonLines

    log = logging.getLogger("swift.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _quiet_end() -> Iterator[None]:
    """Ignores the signal that uvicorn raises again after a graceful shutdown, so that the exit code is 0."""
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
