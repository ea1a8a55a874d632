"""The service by HTTP. Everything that is wrong is told as {"error": one sentence}."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Header, Query, Request, Response, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from moditalker import __version__
from moditalker.errors import UserError
from moditalker.media import tts
from moditalker.serve import tasks
from moditalker.serve.figures import Figures, Meter
from moditalker.serve.forms import Face, Job, Look, Problem, Sound, Wishes, checked
from moditalker.serve.guard import Doorkeeper
from moditalker.serve.limits import Rate
from moditalker.serve.live import speak
from moditalker.serve.service import BUG, Absent, Full, Service
from moditalker.serve.store import Row
from moditalker.serve.uploads import TooLarge, form_of
from moditalker.serve.visitors import Unknown, Visitors

PAGE = Path(__file__).parent / "page"
LOOK_AGAIN = 0.2  # s between looks at how far a job is
RETRY = "30"  # s after which it may be tried again
RESULTS = {
    "video": (tasks.VIDEO, "video/mp4"),
    "source": (tasks.SOURCE, "video/mp4"),
    "report": (tasks.REPORT, "application/json"),
    "motion": (tasks.MOTION, "application/json"),
    "picture": (tasks.PICTURE, "image/jpeg"),
}
WRONG: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 404, 413, 422, 429, 503)
}


FILES = {"face": "face", "audio": "audio", "head_file": "head"}  # fields that may be files, and their kinds


class TooOften(UserError):
    """A visitor asks faster than he may. seconds: after which he may again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many files and jobs in a minute; try again in {seconds:.0f} s")
        self.seconds = seconds


def status_of(error: UserError) -> int:
    """The HTTP status of a mistake."""
    kinds = {Absent: 404, Full: 503, TooLarge: 413, Unknown: 401, TooOften: 429}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 422)


def application(
    service: Service,
    name: str | None = None,
    tokens: Sequence[str] = (),
    origins: Sequence[str] = (),
    samples: tuple[Path, Path] | None = None,
) -> FastAPI:
    """The application of a service, page included.

    Args:
        name: as for `Doorkeeper`. tokens: of those who may come; none: everybody may.
        origins: of other sites whose pages may use the service, such as "https://talk.example".
        samples: a portrait and a recording that visitors without files may try.
    """
    visitors, rate, limits = Visitors(tokens), Rate(service.limits.rate), service.limits
    figures = Figures(service)
    app = FastAPI(title="MoDiTalker", version=__version__, docs_url=None, redoc_url=None, responses=WRONG)
    app.add_middleware(Meter, figures=figures)
    if origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Doorkeeper, name=name, origins=origins)

    async def owner(asked: HTTPConnection) -> str:
        return visitors.owner(asked)

    async def paying(asked: HTTPConnection) -> None:
        if seconds := rate.wait(visitors.payer(asked)):
            raise TooOften(seconds)

    Owner = Annotated[str, Depends(owner)]
    Paying = Depends(paying)

    async def kept(who: str, kind: str, file: UploadFile) -> str:
        take = service.take
        return await run_in_threadpool(take, who, kind, file.filename or "", file.size or 0, file.file)

    async def only(request: Request, who: str, kind: str) -> tuple[str, str]:
        async with form_of(request, limits, files=1) as form:
            if not isinstance(file := form.get("file"), UploadFile):
                raise UserError("file: is missing; send it as the field 'file' of a multipart form")
            number = await kept(who, kind, file)
        return number, service.given(who, kind, number).name

    def view(row: Row) -> Job:
        progress, before = service.progress(row["id"])
        wishes = json.loads(row["wishes"])
        running = row["state"] == "running"
        return Job(
            id=row["id"],
            state=row["state"],
            before=before if row["state"] == "waiting" else 0,
            stage=progress.stage if running else "",
            done=progress.done if running else 0,
            total=progress.total if running else 1,
            seconds_left=progress.seconds_left if running else None,
            error=row["error"],
            created=row["created"],
            began=row["began"],
            ended=row["ended"],
            face=row["face"],
            compare=wishes["compare"],
            seed=wishes["seed"],
        )

    # ------------------------------------------------------------------------------------------- files

    @app.post("/faces", status_code=201, dependencies=[Paying], openapi_extra=_form({"file": _FILE}))
    async def send_face(request: Request, who: Owner) -> Face:
        """Send a picture or a video, and get the faces that are in it."""
        number, called = await only(request, who, "face")
        seen = await asyncio.wrap_future(service.look(who, number))
        return Face(id=number, name=called, **vars(seen))

    @app.get("/faces/{number}/picture", response_class=FileResponse)
    async def face_picture(number: str, who: Owner) -> FileResponse:
        """The frame in which faces were found, at most 1280 pixels wide and high (JPEG)."""
        return FileResponse(service.given(who, "face", number).path.with_suffix(".jpg"))

    @app.post("/sounds", status_code=201, dependencies=[Paying], openapi_extra=_form({"file": _FILE}))
    async def send_sound(request: Request, who: Owner) -> Sound:
        """Send speech, and get its length."""
        number, called = await only(request, who, "audio")
        seconds = await asyncio.wrap_future(service.listen(who, number))
        return Sound(id=number, name=called, seconds=seconds)

    @app.delete("/visit", status_code=204)
    def forget(who: Owner) -> None:
        """Delete all of one's own files and jobs."""
        service.forget(who)

    # -------------------------------------------------------------------------------------------- jobs

    @app.post("/jobs", status_code=201, dependencies=[Paying], openapi_extra=_form(_wishes()))
    async def make(
        request: Request, who: Owner, idempotency_key: Annotated[str | None, Header(max_length=100)] = None
    ) -> Job:
        """Make a video. The same Idempotency-Key gives the same job again, and no second one."""
        async with form_of(request, limits, files=3) as form:
            if known := service.keyed(who, idempotency_key):
                return view(known)
            service.check_room()
            odd = {name for name, value in form.items() if isinstance(value, UploadFile)} - set(FILES)
            if odd:
                raise UserError(f"{min(odd)[:40]}: is a file; only {', '.join(FILES)} may be files")
            taken = []
            try:
                for field in FILES:
                    if isinstance(file := form.get(field), UploadFile):
                        form[field] = await kept(who, FILES[field], file)
                        taken.append(form[field])
                wishes = checked(Wishes, form)
                return view(await run_in_threadpool(service.order, who, wishes, idempotency_key))
            except UserError:
                service.store.drop_files(taken)
                raise

    @app.get("/jobs")
    async def jobs(
        who: Owner,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> list[Job]:
        """One's own jobs, the newest first."""
        return [view(row) for row in service.jobs(who, limit, offset)]

    async def known(number: str, who: Owner) -> Row:
        return service.job(who, number)

    Known = Annotated[Row, Depends(known)]

    @app.get("/jobs/{number}")
    async def job(row: Known) -> Job:
        """A job as it is now."""
        return view(row)

    @app.delete("/jobs/{number}", status_code=204)
    def end(number: str, who: Owner) -> None:
        """Cancel a job that waits or is being done; delete one that has ended, and its result."""
        service.end(who, number)

    @app.get("/jobs/{number}/events", response_class=EventSourceResponse)
    async def events(row: Known) -> AsyncIterator[Job]:
        """A job whenever it changes, until it has ended: server-sent events."""
        told: Job | None = None
        while told is None or told.state in ("waiting", "running"):
            now = await run_in_threadpool(lambda: view(service.job(row["owner"], row["id"])))
            if told is None or now.model_dump(exclude={"seconds_left"}) != told.model_dump(
                exclude={"seconds_left"}
            ):
                yield now
            told = now
            if told.state in ("waiting", "running"):
                await asyncio.sleep(LOOK_AGAIN)

    def result(kind: str) -> Callable[[str, str], Awaitable[FileResponse]]:
        async def download(number: str, who: Owner) -> FileResponse:
            name, media_type = RESULTS[kind]
            return FileResponse(
                service.result(who, number, name),
                media_type=media_type,
                filename=name,
                content_disposition_type="inline",
            )

        return download

    for kind in RESULTS:
        app.get(f"/jobs/{{number}}/{kind}", response_class=FileResponse, name=kind, description=_SAYS[kind])(
            result(kind)
        )

    # -------------------------------------------------------------------------------------------- live

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        """Sound in, frames out: docs/server.md has the messages."""
        await speak(socket, service, visitors)

    # ----------------------------------------------------------------------------------------- service

    @app.get("/service")
    async def about(who: Owner) -> dict[str, Any]:
        """What this service has, and what may be asked of it."""
        return {
            "version": __version__,
            "models": list(service.models),
            "limits": vars(limits),
            "voices": tts.voices(),
            "example": samples is not None,
            "live": bool(service.live and limits.live),
            "defaults": Look().model_dump() | {"quality": Wishes(face="x").quality},
        }

    @app.post("/visit", status_code=204)
    def visit(request: Request, answer: Response, token: Annotated[str, Form(max_length=200)]) -> None:
        """Exchange a token for a cookie, as browsers need one."""
        headers = [(b"authorization", f"Bearer {token}".encode())]
        visitors.owner(HTTPConnection({"type": "http", "headers": headers}))
        visitors.welcome(request, answer, token)

    @app.get("/samples/{kind}", response_class=FileResponse)
    def sample(kind: str) -> FileResponse:
        """The portrait ("face") or the recording ("audio") of the example."""
        if samples is None or kind not in ("face", "audio"):
            raise Absent(f"{kind[:40]!r}: there is no such example here")
        return FileResponse(samples[kind == "audio"])

    @app.get("/health")
    async def health(answer: Response) -> dict[str, str]:
        """Whether videos can be made: 200, or 503 while the networks load or if workers cannot start."""
        if service.maker.up and service.looker.up:
            return {"status": "ok"}
        answer.status_code = 503
        return {"status": str(service.maker.failure or service.looker.failure or "the networks are loading")}

    @app.get("/metrics", response_class=Response)
    def metrics(who: Owner) -> Response:
        """Figures for Prometheus."""
        return Response(figures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        answer = FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})
        if not tokens:
            visitors.welcome(request, answer)
        return answer

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    _answer_mistakes(app)
    return app


def _answer_mistakes(app: FastAPI) -> None:
    def told(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    async def mistake(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        status = status_of(error)
        wait = {429: str(round(getattr(error, "seconds", 1)) or 1), 503: RETRY}.get(status)
        headers = {"retry-after": wait} if wait else {}
        return told(status, str(error), headers | ({"www-authenticate": "Bearer"} if status == 401 else {}))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fault = error.errors()[0]
        return told(422, f"{fault['loc'][-1]}: {fault['msg']}; GET /openapi.json lists what is expected")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path[:80]}: {str(error.detail).lower()}; see GET /openapi.json"
        return told(error.status_code, text, dict(error.headers or {}))

    async def gone(request: Request, error: Exception) -> Response:
        return told(400, "the connection ended before everything was sent")

    async def bug(request: Request, error: Exception) -> Response:
        return told(500, BUG)

    answers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        UserError: mistake,
        RequestValidationError: invalid,
        HTTPException: refused,
        ClientDisconnect: gone,
        Exception: bug,
    }
    for kind, answer in answers.items():
        app.add_exception_handler(kind, answer)


_FILE = {"type": "string", "format": "binary"}
_SAYS = {
    "video": "The video that was made (MP4); parts of it by Range.",
    "source": "The source as a video that browsers play, where `compare` asked for it.",
    "report": "What was done: frames, times, notes, how far the lips part.",
    "motion": "The landmark track: docs/motion.md.",
    "picture": "The newest frame of a video in the making (JPEG).",
}


def _wishes() -> dict[str, Any]:
    properties: dict[str, Any] = Wishes.model_json_schema()["properties"]
    for name in FILES:
        either = {"anyOf": [_FILE, {"type": "string"}], "description": properties[name]["description"]}
        properties[name] = either
    return properties


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's description of a form."""
    needed = [name for name in ("file", "face") if name in properties]
    schema = {"type": "object", "properties": properties, "required": needed}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
