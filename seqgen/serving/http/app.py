"""The application: one route a question, and every refusal as {"error": one sentence}."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import seqgen
from seqgen.core.errors import BadInput, SeqgenError
from seqgen.serving.http import schemas, work
from seqgen.serving.http.docs_page import STYLE, docs_page
from seqgen.serving.http.guard import Guard
from seqgen.serving.http.images import Format, write_images
from seqgen.serving.http.refusals import STATUSES, UNREADABLE, Refusal, sentence
from seqgen.serving.http.service import Service
from seqgen.serving.page import FILES

_POST = (400, 408, 413, 422, 429, 503, 504)
_ELSEWHERE = " ".join(f"{status}: {STATUSES[status].lower()}." for status in (404, 405))


def make_app(
    service: Service, hosts: Collection[str] | None = None, allowed_hosts: Collection[str] = ()
) -> ASGIApp:
    """The application that answers with `service`, to those who ask by one of the names `hosts` (None: by any).

    `allowed_hosts` are names of a proxy before it, under which its page is opened.
    """
    app = FastAPI(
        title="seqgen",
        version=seqgen.__version__,
        description=_ELSEWHERE,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address without what a proxy has before it
    )
    _answer_errors(app)
    _add_questions(app, service)
    _add_state(app, service)
    app.mount("/static", StaticFiles(directory=FILES, check_dir=False))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(FILES / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return FileResponse(STYLE)

    return Guard(app, service.limits, service.metrics, hosts, allowed_hosts)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these, and of those that any question can meet."""
    return {
        status: {"model": schemas.Refused, "description": STATUSES[status]}
        for status in sorted((403, 500, *statuses))
    }


def _add_questions(app: FastAPI, service: Service) -> None:
    """POST: each is work for the model."""

    async def answered(make: Callable[..., work.Work], request: Any) -> Response:
        served = service.model()
        asked = await run_in_threadpool(make, served, request, service.limits)
        result = await service.do(served, asked.task)
        return await run_in_threadpool(_json, asked.answer, result)

    def post(path: str, answer: Any) -> Callable[..., Any]:
        return app.post(path, response_model=answer, responses=_refusals(*_POST))

    @post("/v1/exemplars", schemas.ImagesAnswer)
    async def exemplars(request: schemas.ExemplarsRequest) -> Response:
        """New drawings of a character that is shown."""
        return await answered(work.exemplars, request)

    @post("/v1/samples", schemas.ImagesAnswer)
    async def samples(request: schemas.SamplesRequest) -> Response:
        """Drawings from the prior."""
        return await answered(work.samples, request)

    @post("/v1/walk", schemas.WalkAnswer)
    async def walk(request: schemas.WalkRequest) -> Response:
        """The way from one drawing to another through the latent variables."""
        return await answered(work.walk, request)

    @post("/v1/trace", schemas.TraceAnswer)
    async def trace(request: schemas.TraceRequest) -> Response:
        """Drawings step by step, with the windows that are read and written."""
        return await answered(work.trace, request)

    @post("/v1/nll", schemas.NllAnswer)
    async def nll(request: schemas.NllRequest) -> Response:
        """How likely images are."""
        return await answered(work.nll, request)

    @post("/v1/impute", schemas.ImputeAnswer)
    async def impute(request: schemas.ImputeRequest) -> Response:
        """Missing pixels drawn anew."""
        return await answered(work.impute, request)


def _add_state(app: FastAPI, service: Service) -> None:
    """GET: what is served, and how it is."""

    @app.get("/v1/model", response_model=schemas.ModelAnswer, responses=_refusals(503))
    async def model() -> Response:
        """What is served, and what may be asked of it."""
        served, limits = service.model(), service.limits
        drawings = service.held_out_of(served)
        height, width = served.shape
        return JSONResponse(
            {
                "name": served.name,
                "version": served.version,
                "source": served.source,
                "height": height,
                "width": width,
                "steps": served.module.config.steps,
                "conditional": served.conditional,
                "binary": served.binary,
                "imputation": served.imputation,
                "attention": served.attention,
                "gaussian": served.gaussian,
                "held_out": None if drawings is None else drawings.beside(served).model_dump(),
                "limits": asdict(limits),
                "parameters": served.parameters,
            }
        )

    @app.get("/v1/held-out", response_model=schemas.HeldOutAnswer, responses=_refusals(422, 503))
    def held_out(  # plain, so that it has a thread: to draw and to write PNGs would hold the others up
        count: Annotated[int, Query(ge=1)] = 9,
        seed: Annotated[int, Query(ge=0, lt=2**32)] = 0,
        same: bool = True,
        format: Format = "png",
    ) -> Response:
        """Held-out drawings of one character, or of any; none where the server has none."""
        served = service.model()
        service.limits.check("count", count, "images")
        drawings = service.held_out_of(served)
        if drawings is None:
            return JSONResponse({"context": None, "drawings": [], "concept": None})
        found = drawings.pick(count, seed, same, served.binary)
        return JSONResponse(
            {
                "context": None if found.context is None else write_images(found.context, format),
                "drawings": write_images(found.drawings, format),
                "concept": found.concept,
            }
        )

    @app.get("/healthz", responses=_refusals(503))
    async def health() -> Response:
        """Whether it answers, and with which model."""
        return JSONResponse({"status": "ok", "model": service.model().title})

    plain: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get("/metrics", response_class=Response, responses=plain | _refusals())
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        served = service.served
        name, version = (served.name, served.version) if served else (None, None)
        text = service.metrics.text(len(service.batcher), name, version)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _error(422, sentence(error.errors()))

    @app.exception_handler(SeqgenError)
    async def refused(request: Request, error: SeqgenError) -> Response:
        if isinstance(error, Refusal):
            return _error(error.status, str(error), error.headers)
        return _error(422 if isinstance(error, BadInput) else 500, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:
            return _error(400, f"body: cannot be read ({UNREADABLE}); send JSON")
        what = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists what can be asked"
        return _error(error.status_code, what, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _error(500, "the server failed at this request; its log says at what")


def _error(status: int, why: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": why}, status, dict(headers or {}))


def _json(answer: Callable[[Any], dict[str, Any]], result: Any) -> Response:
    return Response(json.dumps(answer(result), allow_nan=False), media_type="application/json")
