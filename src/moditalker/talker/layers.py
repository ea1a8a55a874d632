"""What each frame's new picture is put together from: mouths of the same person, or a generated region."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, repeat

from torch import Tensor

from moditalker.config import ComposeConfig
from moditalker.geometry.looks import Identity, Look
from moditalker.jobs.streams import beside
from moditalker.media import MediaInfo
from moditalker.talker.targets import Target
from moditalker.video.references import Chooser, Gallery, Lender, faded
from moditalker.video.stage import VideoStage


@dataclass(frozen=True)
class Layers:
    """A frame and what its new picture is put together from.

    looks: of the source whose mouths it takes, with weights; region: (3, h, w) that MToV generated. Without
    either, the frame stays the source's.
    """

    target: Target
    looks: Sequence[tuple[Look, float]] = ()
    region: Tensor | None = None


@dataclass(frozen=True)
class Layering:
    """Targets -> layers, run by run. info: of the source; away: as for `MoDiTalker.video`."""

    stage: VideoStage
    settings: ComposeConfig
    info: MediaInfo
    seed: int
    steps: int | None
    away: float

    def __call__(self, targets: Iterable[Target]) -> Iterator[Layers]:
        """What each frame is put together from, run by run."""
        settings, galleries = self.settings, dict[int, Gallery]()
        for _, run in groupby(targets, key=lambda target: target.run):
            first = next(run)
            run = chain([first], run)
            if first.crop is None:
                yield from map(Layers, run)
                continue
            if not settings.enabled:
                yield from (Layers(item, (), made) for item, made in self._generated(run, first.anchor))
                continue
            shot = first.face.shot
            if shot not in galleries:
                galleries = {shot: Gallery(first.anchor.looks, len(first.crop), settings.looks)}
            gallery = galleries[shot]
            generate = settings.inside == "mtov" and not gallery.shows_inside
            made = self._generated(run, first.anchor) if generate else zip(run, repeat(None))
            for (target, region), looks in faded(self._chosen(made, gallery)):
                yield Layers(target, looks, region)

    def _chosen(
        self, made: Iterable[tuple[Target, Tensor | None]], gallery: Gallery
    ) -> Iterator[tuple[tuple[Target, Tensor | None], Look]]:
        """Each frame of a run with the look that its mouth comes from."""
        fps = float(self.info.fps)
        settings = self.settings
        chooser = Chooser[tuple[Target, Tensor | None]](settings.change, settings.lag)
        lender = Lender(gallery, fps)
        for target, region in made:
            assert target.crop is not None
            assert target.wanted is not None
            face = target.face
            learnable = target.confidence.learnable and self.info.kind != "picture"
            lender.offer(learnable, partial(face.look, target.crop, fps))
            cost = gallery.costs(target.wanted, face.scale, face.frame.index / fps, self.away)
            yield from chooser.push((target, region), gallery.looks, cost)
        yield from chooser.finish()

    def _generated(self, run: Iterator[Target], anchor: Identity) -> Iterator[tuple[Target, Tensor]]:
        """Frames of one run with the region that MToV generates for each."""

        def regions(targets: Iterator[Target]) -> Iterator[Tensor]:
            inputs = (
                (target.crop, target.wanted[:, :2], target.landmarks[:, :2])
                for target in targets
                if target.crop is not None and target.wanted is not None and target.landmarks is not None
            )
            yield from self.stage(inputs, anchor, self.seed, self.steps)

        return beside(run, regions)
