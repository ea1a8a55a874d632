"""A Gradio app in front of the service: pip install gradio, start moditalker serve, then

python examples/gradio_app.py http://127.0.0.1:7860
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gradio as gr

from moditalker.errors import UserError
from moditalker.serve.client import Client


def app(client: Client) -> gr.Interface:
    """A page with a face, a recording and a seed in, and a video out."""

    def make(face: str, audio: str, seed: float, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        try:
            number = client.make(face, audio, seed=int(seed)).id
            for job in client.follow(number):
                progress(job.done / job.total, desc=job.stage or job.state)
            client.wait(number)
            client.save(number, out := Path(tempfile.mkdtemp()) / "talking.mp4")
        except UserError as error:
            raise gr.Error(str(error)) from error
        return str(out)

    face = gr.File(label="Face", type="filepath")
    audio = gr.Audio(label="Speech", type="filepath")
    return gr.Interface(make, [face, audio, gr.Number(0, label="Seed")], gr.Video(), title="MoDiTalker")


if __name__ == "__main__":
    app(Client(*sys.argv[1:])).launch()
