"""The ASGI app: routes of the Open Inference Protocol, and ready files for `edgetune pull`.

It mounts unchanged in anything that runs ASGI, such as uvicorn or Ray Serve.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_runtime import __version__, open_inference
from edge_runtime.backbone import Backbone
from edge_runtime.errors import DataError, EdgeError, ProtocolError
from edge_runtime.features import FeatureFolder
from edge_runtime.open_inference import BINARY_EXTENSION, JSON_LENGTH, Message
from export.serve import model as serving
from export.serve.batching import Batcher, BusyError, Limits
from export.serve.body import Bodies
from export.serve.files import file_routes
from export.serve.gate import Gate
from export.serve.metrics import Metrics
from export.serve.model import ServedModel

MAX_JSON_BODY = 8 << 20  # what a parsed JSON value can take is 20 times its text
PARSE_INLINE = 64 << 10
BODY_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """How a backbone is served; sizes in bytes, times in seconds."""

    limits: Limits = field(default_factory=Limits)
    max_body: int = 16 << 20
    body_seconds: float = BODY_SECONDS
    tokens: frozenset[str] = frozenset()


def create_app(
    backbone: Backbone,
    settings: Settings,
    name: str | None = None,
    features: FeatureFolder | None = None,
) -> Starlette:
    """The app for one backbone, whose graph is loaded and tried out here.

    Args:
        name: of the model; the backbone's timm name by default.
        features: a feature folder to publish.

    Raises:
        FormatError: the graph is damaged, or not the one that the manifest describes.
    """
    metrics = Metrics()
    model = ServedModel(backbone, name or default_name(backbone), settings.limits.max_batch)
    backbone.verify()
    endpoints = Endpoints(model, settings, metrics)
    one = "/v2/models/{name}"
    app = Starlette(
        routes=[
            Route("/v2", endpoints.server),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", live),  # it listens only once the graph is loaded
            Route("/v2/repository/index", endpoints.index, methods=["GET", "POST"]),
            *(
                route
                for path in (one, one + "/versions/1")
                for route in (
                    Route(path, endpoints.metadata),
                    Route(path + "/ready", endpoints.ready),
                    Route(path + "/infer", endpoints.infer, methods=["POST"]),
                )
            ),
            Route("/metrics", endpoints.metrics),
            *file_routes(backbone.folder, features),
        ],
        middleware=[Middleware(Gate, tokens=settings.tokens, metrics=metrics)],
        exception_handlers={
            HTTPException: http_error,
            EdgeError: edge_error,
            ClientDisconnect: http_error,
        },
        lifespan=endpoints.lifespan,
    )
    app.router.redirect_slashes = False  # it decodes the query, which need not be UTF-8
    app.state.model_name = model.name
    return app


def default_name(backbone: Backbone) -> str:
    """The backbone's timm name, as far as a URL's path can carry it."""
    return re.sub(r"[^\w.-]", "_", str(backbone.reference["model"]), flags=re.ASCII)


async def live(request: Request) -> Response:
    return JSONResponse({"live": True, "ready": True})


class Endpoints:
    """The handlers, with what they share."""

    def __init__(self, model: ServedModel, settings: Settings, metrics: Metrics):
        self._model, self._metrics = model, metrics
        found = model.trial
        limits = replace(settings.limits, max_batch=found.best_batch, merge=found.invariant)
        self._batcher = Batcher(model.run, limits, metrics.batch)
        metrics.waiting.set_function(lambda: self._batcher.waiting)
        self._bodies = Bodies(settings.max_body, 8 * settings.max_body, settings.body_seconds)
        self._parsers = ThreadPoolExecutor(1, "json")  # one: bounds what parsed JSON holds
        self._decoders = ThreadPoolExecutor(2, "decode")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Lets running batches end."""
        yield
        self._batcher.close()

    async def server(self, request: Request) -> Response:
        extensions = [BINARY_EXTENSION, "model_repository"]
        return JSONResponse({"name": "edgetune", "version": __version__, "extensions": extensions})

    async def index(self, request: Request) -> Response:
        return JSONResponse([{"name": self._model.name, "version": "1", "state": "READY"}])

    async def metadata(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse(self._model.metadata())

    async def ready(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse({"name": self._model.name, "ready": True})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=self._metrics.content_type)

    async def infer(self, request: Request) -> Response:
        self._check_name(request)
        async with self._bodies.read(request) as body:
            message = await self._parse(body, request.headers.get(JSON_LENGTH))
            asked = serving.wanted(message, self._model.outputs)
            answer: dict[str, Any] = {
                "model_name": self._model.name,
                "model_version": "1",
                **serving.request_id(message),
                "parameters": {"identity": self._model.backbone.reference["identity"]},
            }
            images = self._model.read_inputs(message)
            request.scope["edgetune"] = {"images": len(images), "outputs": tuple(asked.outputs)}
            if isinstance(images, list):
                images = await self._in(self._decoders, self._model.decode, images)
            finish = partial(build_answer, answer, asked, self._model.backbone.prefix_tokens)
            content, json_length = await self._batcher.submit(images, finish)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(
            content, media_type="application/octet-stream", headers={JSON_LENGTH: str(json_length)}
        )

    async def _parse(self, body: bytes, json_length: str | None) -> Message:
        if json_length is None and len(body) > MAX_JSON_BODY:
            raise HTTPException(413, f"a JSON body is larger than {MAX_JSON_BODY} bytes")
        if json_length is None and len(body) > PARSE_INLINE:
            return await self._in(self._parsers, open_inference.parse, body, None, "inputs")
        return open_inference.parse(body, json_length, "inputs")

    async def _in(self, pool: ThreadPoolExecutor, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._model.name:
            raise HTTPException(
                404, f"there is no model {name[:100]!r} here; see /v2/repository/index"
            )


def build_answer(
    content: dict[str, Any], asked: serving.Wanted, prefix_tokens: int, features: serving.Array
) -> tuple[bytes, int | None]:
    """Body of an answer and the length of its JSON; runs in a worker."""
    outputs = serving.encode_outputs(features, prefix_tokens, asked)
    return open_inference.build(content, "outputs", outputs, asked.in_json)


async def http_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": "the body broke off"}, 400)


async def edge_error(request: Request, error: Exception) -> Response:
    """A message that is none: 400. Images that cannot be used: 422. A full queue: 503."""
    if isinstance(error, BusyError):
        retry = {"Retry-After": str(error.retry_after)}
        return JSONResponse({"error": str(error)}, 503, retry)
    if isinstance(error, (ProtocolError, DataError)):
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, ProtocolError) else 422)
    raise error
