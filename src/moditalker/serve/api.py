"""The HTTP interface of the service. An error is {"error": one sentence}."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Header, Query, Request, Response, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile
from starlette.requests import HTTPConnection

from moditalker import __version__
from moditalker.errors import UserError
from moditalker.media import tts
from moditalker.serve import orders
from moditalker.serve.errors import Absent, TooOften, add_error_handlers
from moditalker.serve.forms import Face, Job, JobRequest, Problem, Sound, VideoOptions, validated
from moditalker.serve.guard import Doorkeeper
from moditalker.serve.limits import Rate
from moditalker.serve.live import speak
from moditalker.serve.metrics import Meter, Metrics
from moditalker.serve.service import Service
from moditalker.serve.store import Row
from moditalker.serve.uploads import Patient, form_of
from moditalker.serve.visitors import Visitors

PAGE = Path(__file__).parent / "page"
POLL = 0.2  # s between two looks at the progress of a job
RESULTS = {
    "video": (orders.VIDEO, "video/mp4"),
    "source": (orders.SOURCE, "video/mp4"),
    "report": (orders.REPORT, "application/json"),
    "motion": (orders.MOTION, "application/json"),
}
WRONG: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 404, 413, 422, 429, 503)
}
FILES = {"face": "face", "audio": "audio", "head_file": "head"}  # fields that may be files, and their kinds


def application(
    service: Service,
    name: str | None = None,
    tokens: Sequence[str] = (),
    origins: Sequence[str] = (),
    samples: tuple[Path, Path] | None = None,
) -> FastAPI:
    """The application of a service, page included.

    Args:
        name: as for `Doorkeeper`. tokens: a visitor needs one of them; none: everybody may come.
        origins: of other sites whose pages may use the service, such as "https://talk.example".
        samples: a portrait and a recording that visitors without files may try.
    """
    visitors, rate, limits = Visitors(tokens), Rate(service.limits.rate), service.limits
    metrics_of_service = Metrics(service)
    app = FastAPI(title="MoDiTalker", version=__version__, docs_url=None, redoc_url=None, responses=WRONG)
    app.add_middleware(Meter, metrics=metrics_of_service)
    if origins:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Doorkeeper, name=name, origins=origins)
    app.add_middleware(Patient)

    async def owner_of(asked: HTTPConnection) -> str:
        return visitors.owner(asked)

    async def limited(asked: HTTPConnection) -> None:
        if seconds := rate.wait(visitors.rate_key(asked)):
            raise TooOften(seconds)

    Owner = Annotated[str, Depends(owner_of)]
    Limited = Depends(limited)

    async def kept(owner: str, kind: str, file: UploadFile) -> str:
        take = service.add_file
        return await run_in_threadpool(take, owner, kind, file.filename or "", file.size or 0, file.file)

    async def only_file(request: Request, owner: str, kind: str) -> tuple[str, str]:
        async with form_of(request, service, files=1) as form:
            if not isinstance(file := form.get("file"), UploadFile):
                raise UserError("file: is missing; send it as the field 'file' of a multipart form")
            file_id = await kept(owner, kind, file)
        return file_id, service.file(owner, kind, file_id).name

    def view(row: Row) -> Job:
        progress, before = service.progress(row["id"])
        wanted = json.loads(row["request"])
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
            compare=wanted["compare"],
            seed=wanted["seed"],
        )

    # ------------------------------------------------------------------------------------------- files

    @app.post("/faces", status_code=201, dependencies=[Limited], openapi_extra=_form({"file": _FILE}))
    async def send_face(request: Request, owner: Owner) -> Face:
        """Send a picture or a video, and get its faces."""
        file_id, called = await only_file(request, owner, "face")
        seen = await asyncio.wrap_future(service.find_faces(owner, file_id))
        return Face(id=file_id, name=called, **vars(seen))

    @app.get("/faces/{face_id}/picture", response_class=FileResponse)
    async def face_picture(face_id: str, owner: Owner) -> FileResponse:
        """The frame in which faces were found, at most 1280 pixels wide and high (JPEG)."""
        return FileResponse(service.file(owner, "face", face_id).path.with_suffix(".jpg"))

    @app.post("/sounds", status_code=201, dependencies=[Limited], openapi_extra=_form({"file": _FILE}))
    async def send_sound(request: Request, owner: Owner) -> Sound:
        """Send speech, and get its length."""
        file_id, called = await only_file(request, owner, "audio")
        seconds = await asyncio.wrap_future(service.measure_sound(owner, file_id))
        return Sound(id=file_id, name=called, seconds=seconds)

    @app.delete("/visit", status_code=204)
    def forget(owner: Owner) -> None:
        """Delete all of one's own files and jobs."""
        service.delete_all(owner)

    # -------------------------------------------------------------------------------------------- jobs

    @app.post("/jobs", status_code=201, dependencies=[Limited], openapi_extra=_form(_job_fields()))
    async def make(
        request: Request, owner: Owner, idempotency_key: Annotated[str | None, Header(max_length=100)] = None
    ) -> Job:
        """Make a video. The same Idempotency-Key gives the same job again, and no second one."""
        async with form_of(request, service, files=3) as form:
            if known := service.job_of_key(owner, idempotency_key):
                return view(known)
            service.check_room()
            odd = {name for name, value in form.items() if isinstance(value, UploadFile)} - set(FILES)
            if odd:
                raise UserError(f"{min(odd)[:40]}: is a file; only {', '.join(FILES)} may be files")
            taken = []
            try:
                for field in FILES:
                    if isinstance(file := form.get(field), UploadFile):
                        form[field] = await kept(owner, FILES[field], file)
                        taken.append(form[field])
                job = validated(JobRequest, form)
                return view(await run_in_threadpool(service.add_job, owner, job, idempotency_key))
            except UserError:
                service.store.drop_files(taken)
                raise

    @app.get("/jobs")
    async def jobs(
        owner: Owner,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> list[Job]:
        """One's own jobs, the newest first."""
        return [view(row) for row in service.jobs(owner, limit, offset)]

    async def known(job_id: str, owner: Owner) -> Row:
        return service.job(owner, job_id)

    Known = Annotated[Row, Depends(known)]

    @app.get("/jobs/{job_id}")
    async def job(row: Known) -> Job:
        """The present state of a job."""
        return view(row)

    @app.delete("/jobs/{job_id}", status_code=204)
    def end(job_id: str, owner: Owner) -> None:
        """Cancel a job, or delete it and its result if it has ended."""
        service.end(owner, job_id)

    @app.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
    async def events(row: Known) -> AsyncIterator[Job]:
        """The states of a job, from now until it ends, as server-sent events."""
        sent = None
        with suppress(Absent):  # it was deleted
            while sent is None or sent.state in ("waiting", "running"):
                now = await run_in_threadpool(lambda: view(service.job(row["owner"], row["id"])))
                if sent is None or now != sent.model_copy(update={"seconds_left": now.seconds_left}):
                    yield now
                sent = now
                await asyncio.sleep(POLL)

    def result(kind: str) -> Callable[[str, str], Awaitable[FileResponse]]:
        async def download(job_id: str, owner: Owner) -> FileResponse:
            name, media_type = RESULTS[kind]
            return FileResponse(
                service.result(owner, job_id, name),
                media_type=media_type,
                filename=name,
                content_disposition_type="inline",
            )

        return download

    @app.get("/jobs/{job_id}/picture", response_class=Response)
    def picture(job_id: str, owner: Owner) -> Response:
        """The newest frame of a video, also while it is made (JPEG)."""
        path = service.result(owner, job_id, orders.PICTURE)
        try:
            return Response(path.read_bytes(), media_type="image/jpeg")
        except FileNotFoundError as error:  # the video has just been made, and its folder has another name
            raise Absent(f"job {job_id!r}: there is no picture now; ask again") from error

    for kind in RESULTS:
        app.get(f"/jobs/{{job_id}}/{kind}", response_class=FileResponse, name=kind, description=_SAYS[kind])(
            result(kind)
        )

    # -------------------------------------------------------------------------------------------- live

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        """Sound in, frames out: docs/server.md has the messages."""
        await speak(socket, service, visitors)

    # ----------------------------------------------------------------------------------------- service

    @app.get("/service")
    async def about(owner: Owner) -> dict[str, Any]:
        """Models, voices, limits and defaults of this service."""
        return {
            "version": __version__,
            "models": list(service.models),
            "limits": vars(limits),
            "voices": tts.voices(),
            "example": samples is not None,
            "live": service.sessions.possible,
            "defaults": VideoOptions().model_dump() | {"quality": JobRequest(face="x").quality},
        }

    @app.post("/visit", status_code=204)
    def visit(request: Request, answer: Response, token: Annotated[str, Form(max_length=200)]) -> None:
        """Exchange a token for a cookie, as browsers need one."""
        headers = [(b"authorization", f"Bearer {token}".encode())]
        visitors.owner(HTTPConnection({"type": "http", "headers": headers}))
        visitors.set_cookie(request, answer, token)

    @app.get("/samples/{kind}", response_class=FileResponse)
    def sample(kind: str) -> FileResponse:
        """The portrait ("face") or the recording ("audio") of the example."""
        if samples is None or kind not in ("face", "audio"):
            raise Absent(f"{kind[:40]!r}: there is no such example here")
        return FileResponse(samples[kind == "audio"])

    @app.get("/health")
    async def health(answer: Response) -> dict[str, str]:
        """200 if videos can be made; 503 while the networks load or if workers cannot start."""
        if service.maker.up and service.looker.up:
            return {"status": "ok"}
        answer.status_code = 503
        return {"status": str(service.maker.failure or service.looker.failure or "the networks are loading")}

    @app.get("/metrics", response_class=Response)
    def metrics(owner: Owner) -> Response:
        """Metrics for Prometheus."""
        return Response(metrics_of_service.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        answer = FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})
        if not tokens:
            visitors.set_cookie(request, answer)
        return answer

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    add_error_handlers(app)
    return app


_FILE = {"type": "string", "format": "binary"}
_SAYS = {
    "video": "The video that was made (MP4); parts of it by Range.",
    "source": "The source as a video that browsers play, where `compare` asked for it.",
    "report": "What was done: frames, times, notes, how far the lips part.",
    "motion": "The landmark track: docs/motion.md.",
}


def _job_fields() -> dict[str, Any]:
    properties: dict[str, Any] = JobRequest.model_json_schema()["properties"]
    for name in FILES:
        either = {"anyOf": [_FILE, {"type": "string"}], "description": properties[name]["description"]}
        properties[name] = either
    return properties


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's description of a form."""
    needed = [name for name in ("file", "face") if name in properties]
    schema = {"type": "object", "properties": properties, "required": needed}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
