"""The page: a Gradio front of `Studio`. Only this file knows Gradio."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from moditalker.errors import UserError
from moditalker.media import tts
from moditalker.motion.edit import Style
from moditalker.provenance import Provenance
from moditalker.serve import views
from moditalker.serve.guard import Doorkeeper, is_loopback
from moditalker.serve.studio import Job, Studio, Visitor
from moditalker.serve.tasks import Order, Seen
from moditalker.talker.options import Options

HERE = Path(__file__).parent
REFRESH = 0.4  # s between looks at how far a video is
EXTEND = {
    "plays it back and forth": "pingpong",
    "starts it again": "loop",
    "holds its last frame": "hold",
    "ends with the video": "none",
}
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
FACES = ["image", "video", ".mkv", ".mpg", ".mts", ".heic"]  # what the browser's file window offers
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
ALOUD = "Every frame is drawn; here is the video."
Update = dict[Any, Any]


class Page:
    """Components, and what happens between them.

    samples: a portrait and a recording that come along, where there is a portrait.
    """

    def __init__(self, studio: Studio, samples: tuple[Path, Path] | None = None) -> None:
        self.studio, self.samples = studio, samples
        with gr.Blocks(title="MoDiTalker", analytics_enabled=False) as self.blocks:
            gr.HTML(
                "<h1>MoDiTalker</h1><p>A face and speech become a talking video. "
                f"{views.said_before(studio.limits)}</p>",
                elem_classes="title",
            )
            with gr.Row(equal_height=False):
                self._face_card()
                self._speech_card()
            self._make_card()
            self._result_card()
            self._connect()

    # ------------------------------------------------------------------------------------------ what is seen

    def _face_card(self) -> None:
        with gr.Column(min_width=320, variant="panel", elem_classes="card"):
            gr.HTML("<h2><b>1</b>The face</h2>")
            with gr.Tabs():
                with gr.Tab("Picture or video"):
                    self.file = gr.File(
                        label="Picture or video of a face", file_types=FACES, height=150, elem_id="face"
                    )
                with gr.Tab("Camera"):
                    self.camera = gr.Video(
                        label="Record a face",
                        sources=["webcam"],
                        webcam_options=gr.WebcamOptions(mirror=False),
                        include_audio=True,  # otherwise Gradio wants an ffmpeg to take it out
                        buttons=[],
                        height=240,
                        elem_id="camera",
                    )
            self.found = gr.HTML(elem_id="found")
            self.picture = gr.Image(
                label="The face that speaks",
                show_label=False,
                interactive=False,
                visible=False,
                buttons=[],
                elem_id="picture",
            )
            self.faces = gr.Radio([], label="Who speaks?", visible=False, type="value", elem_id="faces")

    def _speech_card(self) -> None:
        with gr.Column(min_width=320, variant="panel", elem_classes="card"):
            gr.HTML("<h2><b>2</b>The speech</h2>")
            self.kind = gr.State("sound")
            with gr.Tabs() as self.tabs:
                with gr.Tab("Recording", id="sound") as self.sound_tab:
                    self.audio = gr.Audio(
                        label="Speech, from a file or the microphone",
                        sources=["upload", "microphone"],
                        type="filepath",
                        buttons=[],
                        elem_id="speech",
                    )
                    self.heard = gr.HTML(elem_id="heard")
                with gr.Tab("Text", id="text") as self.text_tab:
                    voices = [(name, code) for code, name in tts.voices().items()]
                    self.text = gr.Textbox(
                        label="What the face says",
                        placeholder="Type a sentence.",
                        lines=4,
                        max_length=self.studio.limits.characters,
                        interactive=bool(voices),
                        elem_id="text",
                    )
                    self.voice = gr.Dropdown(
                        voices,
                        value=tts.DEFAULT_VOICE if voices else None,
                        label="Voice",
                        visible=bool(voices),
                    )
                    if not voices:
                        gr.HTML(views.no_voice())

    def _make_card(self) -> None:
        with gr.Column(variant="panel", elem_classes="card"):
            gr.HTML("<h2><b>3</b>The video</h2>")
            with gr.Accordion("Options", open=False):
                with gr.Row():
                    self.mouth = gr.Slider(
                        0.0, 2.0, 1.0, step=0.1, label="Mouth", info="How far the lips part; 1 is as spoken."
                    )
                    self.expression = gr.Slider(
                        0.0,
                        2.0,
                        1.0,
                        step=0.1,
                        label="Expression",
                        info="How much the corners of the mouth do.",
                    )
                    self.smoothing = gr.Slider(
                        0.0,
                        0.2,
                        0.0,
                        step=0.02,
                        label="Softness",
                        info="0 is crisp; more is slower and softer.",
                    )
                with gr.Row():
                    self.extend = gr.Radio(
                        list(EXTEND), value=next(iter(EXTEND)), label="Speech that outlasts a video …"
                    )
                    self.seed = gr.Number(
                        0,
                        label="Take",
                        info="Another number, another take.",
                        precision=0,
                        minimum=0,
                        maximum=2**31,
                    )
                self.consent = gr.Textbox(
                    label="Who agreed to this video?",
                    info="Optional: a line in the file, beside the one that says that it is synthetic.",
                    max_length=200,
                )
            with gr.Row():
                self.make = gr.Button("Make the video", variant="primary", elem_id="make", min_width=200)
                self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel", min_width=120)
            with gr.Row(elem_classes="examples", visible=self.samples is not None):
                gr.HTML(views.note("No files at hand?"))
                self.examples = [
                    gr.Button("Let an astronaut say a recorded sentence", elem_id="example-sound", size="sm"),
                    gr.Button("… or a typed one", elem_id="example-text", size="sm", visible=tts.available()),
                ]
            self.status = gr.HTML(elem_id="status")
            self.said = gr.HTML(elem_id="said")

    def _result_card(self) -> None:
        with gr.Column(visible=False, variant="panel", elem_classes="card", elem_id="result") as self.result:
            gr.HTML("<h2>The result</h2>")
            self.stage = gr.HTML(elem_id="stage")
            self.curve = gr.HTML()
            self.summary = gr.HTML(elem_id="summary")
            with gr.Row():
                self.video = gr.DownloadButton("Download the video", variant="primary", elem_id="download")
                self.report = gr.DownloadButton("Report", elem_id="report")
                self.motion = gr.DownloadButton("Motion track", elem_id="motion")
            gr.HTML(
                views.note("Show videos only of people who agreed to it, and say that they are synthetic.")
            )

    # ------------------------------------------------------------------------------------------ what happens

    def _connect(self) -> None:
        for face in (self.file, self.camera):
            face.change(self._look, face, [self.found, self.picture, self.faces], **PRIVATE)
        self.picture.select(self._click, None, [self.picture, self.faces], **PRIVATE)
        self.faces.input(self._choose, self.faces, self.picture, **PRIVATE)
        self.audio.change(self._listen, self.audio, self.heard, **PRIVATE)
        self.sound_tab.select(lambda: "sound", None, self.kind, **PRIVATE)
        self.text_tab.select(lambda: "text", None, self.kind, **PRIVATE)
        inputs = [self.kind, self.audio, self.text, self.voice]
        inputs += [self.mouth, self.expression, self.smoothing, self.extend, self.seed, self.consent]
        outputs: list[Any] = [self.status, self.said, self.make, self.cancel, self.result, self.stage]
        outputs += [self.curve, self.summary, self.video, self.report, self.motion]
        # Videos wait in the studio's queue, which can tell how many are before; so all may start here.
        many: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}
        self.make.click(self._make, inputs, outputs, **many)
        self.cancel.click(self._cancel, None, self.cancel, queue=False, **PRIVATE)
        for button, fill in zip(self.examples, (self._recorded, self._typed), strict=True):
            filled = [
                self.file,
                self.found,
                self.picture,
                self.faces,
                self.tabs,
                self.kind,
                self.audio,
                self.text,
            ]
            button.click(fill, None, filled, **PRIVATE).then(self._make, inputs, outputs, **many)
        self.blocks.unload(self._leave)

    def _look(self, path: str | None, request: gr.Request) -> Update:
        hidden = {self.picture: gr.update(visible=False), self.faces: gr.update(visible=False)}
        session = str(request.session_hash)
        if path is None:
            self.studio.forget(session)
            return {self.found: "", **hidden}
        try:
            seen = self.studio.look(session, Path(path))
        except UserError as error:
            return {self.found: views.alert(str(error)), **hidden}
        return self._seen(self.studio.visitor(session), seen)

    def _seen(self, visitor: Visitor, seen: Seen) -> Update:
        count = len(seen.faces)
        choices = [(views.face_name(number, count), number) for number in range(count)]
        chosen = visitor.chosen if visitor.chosen is not None else seen.largest
        return {
            self.found: views.found(seen),
            self.picture: gr.update(value=self._drawn(visitor, seen, chosen), visible=True),
            self.faces: gr.update(choices=choices, value=chosen, visible=count > 1),
        }

    def _drawn(self, visitor: Visitor, seen: Seen, chosen: int) -> str:
        path = visitor.folder / f"{secrets.token_urlsafe(8)}.jpg"
        views.draw_faces(seen, chosen).save(path, quality=90)
        return str(path)

    def _click(self, event: gr.SelectData, request: gr.Request) -> Update:
        visitor = self.studio.visitor(str(request.session_hash))
        if visitor.seen is None:
            return {}
        number = views.nearest(visitor.seen, *event.index)
        return {self.picture: self._choose(number, request), self.faces: number}

    def _choose(self, number: int, request: gr.Request) -> Any:
        visitor = self.studio.visitor(str(request.session_hash))
        if visitor.seen is None or not 0 <= number < len(visitor.seen.faces):
            return gr.skip()
        visitor.chosen = number
        return self._drawn(visitor, visitor.seen, number)

    def _listen(self, path: str | None, request: gr.Request) -> str:
        if path is None:
            return ""
        try:
            seconds = self.studio.listen(str(request.session_hash), Path(path))
        except UserError as error:
            return views.alert(str(error))
        return views.note(f"{seconds:.1f} seconds of speech.")

    async def _make(
        self,
        kind: str,
        audio: str | None,
        text: str | None,
        voice: str | None,
        mouth: float,
        expression: float,
        smoothing: float,
        extend: str,
        seed: float,
        consent: str | None,
        request: gr.Request,
    ) -> AsyncIterator[Update]:
        session = str(request.session_hash)
        visitor = self.studio.visitor(session)
        try:
            order = Order(
                visitor.speaking(),
                audio=Path(audio) if audio and kind == "sound" else None,
                text=text or "" if kind == "text" else "",
                voice=voice or tts.DEFAULT_VOICE,
                options=Options(
                    seed=int(seed or 0),
                    extend=EXTEND[extend],
                    choose=visitor.choice(),
                    style=Style(mouth, expression, smoothing),
                    provenance=Provenance((consent or "").strip() or None),
                ),
            )
            if kind == "sound" and audio is None:
                raise UserError("there is no speech yet; give a recording, or type what the face shall say")
            job = self.studio.make(session, order)
        except UserError as error:
            yield {self.status: views.alert(str(error)), self.said: ""}
            return
        yield {
            self.make: gr.update(interactive=False),
            self.cancel: gr.update(visible=True, interactive=True, value="Cancel"),
            self.result: gr.update(visible=False),
        }
        while not job.future.done():
            before = self.studio.before(job)
            yield {self.status: views.progress(job, before), self.said: views.headline(job, before)}
            await asyncio.sleep(REFRESH)
        yield {self.make: gr.update(interactive=True), self.cancel: gr.update(visible=False)} | self._end(
            job, visitor
        )

    def _end(self, job: Job, visitor: Visitor) -> Update:
        """What a job that is done leaves to see."""
        if job.cancelled:
            return {self.status: views.note("Cancelled."), self.said: ""}
        error = job.future.exception()
        if error is not None:
            text = (
                str(error)
                if isinstance(error, UserError)
                else "something went wrong; the server's log has more"
            )
            return {self.status: views.alert(text), self.said: ""}
        made = job.future.result()
        assert visitor.seen is not None or made.source is not None
        picture = visitor.seen.picture if visitor.seen is not None else made.video
        return {
            self.status: "",
            self.said: ALOUD,
            self.result: gr.update(visible=True),
            self.stage: views.stage(made, picture),
            self.curve: views.curve(made.opening),
            self.summary: views.summary(made),
            self.video: str(made.video),
            self.report: str(made.report),
            self.motion: str(made.motion),
        }

    def _cancel(self, request: gr.Request) -> Any:
        self.studio.cancel(str(request.session_hash))
        return gr.update(interactive=False, value="Cancelling …")

    def _leave(self, request: gr.Request) -> None:
        self.studio.leave(str(request.session_hash))

    def _recorded(self, request: gr.Request) -> Update:
        assert self.samples is not None
        audio = self.studio.borrow(str(request.session_hash), self.samples[1])
        return self._portrait(request) | {
            self.audio: str(audio),
            self.tabs: gr.update(selected="sound"),
            self.kind: "sound",
        }

    def _typed(self, request: gr.Request) -> Update:
        sentence = "Hello. I was a still picture a moment ago, and now I speak."
        return self._portrait(request) | {
            self.text: sentence,
            self.tabs: gr.update(selected="text"),
            self.kind: "text",
        }

    def _portrait(self, request: gr.Request) -> Update:
        assert self.samples is not None
        session = str(request.session_hash)
        face = self.studio.borrow(session, self.samples[0])
        return {self.file: str(face)} | self._look(str(face), request)


def theme() -> gr.themes.Base:
    """Quiet: white cards on grey, one colour, the system's own letters."""
    hues: dict[str, Any] = {"primary_hue": "teal", "secondary_hue": "teal", "neutral_hue": "slate"}
    return gr.themes.Base(**hues, radius_size="lg", font=FONT, font_mono=MONO).set(
        body_background_fill="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_border_width="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_label_text_weight="400",
        block_shadow="none",
        panel_background_fill="white",
        panel_background_fill_dark="*neutral_900",
        panel_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
        slider_color="*primary_700",
    )


def launch(
    studio: Studio,
    host: str,
    address: str,
    port: int | None,
    samples: tuple[Path, Path] | None,
    browser: bool = False,
) -> tuple[gr.Blocks, str]:
    """Open the page; its server runs in a thread. Returns it and the page's address.

    Args:
        host: the name that visitors know, and address: what it stands for (`own_address`).

    Raises:
        UserError: the port cannot be listened on.
    """
    from starlette.middleware import Middleware

    os.environ["GRADIO_TEMP_DIR"] = str(studio.root)
    page = Page(studio, samples)
    page.blocks.queue(api_open=False)
    doorkeeper = Middleware(Doorkeeper, name=host if is_loopback(address) else None)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    try:
        _, url, _ = page.blocks.launch(
            server_name=f"[{address}]" if ":" in address else address,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            blocked_paths=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=studio.limits.megabytes * 1_000_000,
            theme=theme(),
            css_paths=HERE / "page.css",
            head=f"<script>{script}</script>",
            app_kwargs={"middleware": [doorkeeper], "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        fault = "no port from 7860 on is free" if port is None else f"port {port} is taken, or not allowed"
        raise UserError(f"{address}: {fault}; choose another --port") from error
    return page.blocks, url
