"""Files <-> arrays: pictures, videos and sound, streamed through PyAV (and Pillow for pictures).

What is read becomes RGB uint8 (H, W, 3), upright, and mono float32 at 16 kHz; what is written keeps the
source's time stamps, size, colour tags and, where the container allows, its sound packets. However long a
file is, a bounded number of frames is held; nothing but ordinary local files is opened. What a user should
know, but need not act on, is collected in ``notes``. Choices [ours]:

- Alpha is shown on white; interlaced frames are deinterlaced; HDR (PQ, HLG) is tone-mapped to BT.709.
- A picture is reduced to the largest frame of H.264 level 5.2 (4096 on the long side, 9.4 megapixels).
- Output is H.264 4:2:0, which cannot have an odd width or height: in .mp4 and .mov, whose players know no
  other codec for certain, the last row or column is repeated; in .mkv those become VP9. Nothing is resized or
  cropped. ``lossless`` is H.264 in RGB, exactly the pixels given.
- Where a written pixel equals the source's, the encoder gets the source's own YUV samples: what was not
  touched does not pass through RGB, so neither rounding nor gamut clipping shifts its colour.
"""

from moditalker.media.clips import Clip, read_clip
from moditalker.media.files import Color, MediaInfo, probe
from moditalker.media.pictures import read_picture
from moditalker.media.sound import MIN_SECONDS, SAMPLE_RATE, AudioReader, resampled, write_wav
from moditalker.media.sources import (
    Frame,
    Length,
    Part,
    Picture,
    Source,
    VideoReader,
    check_extend,
    exact,
    open_source,
    plan_frames,
)
from moditalker.media.writing import (
    CODECS,
    ENCODERS,
    FORMATS,
    PIXELS,
    QUALITY,
    VideoWriter,
    can_encode,
    check_codec,
    check_quality,
    decoded,
    encoded,
    fitted,
    plain_info,
    remove_parts,
    through_codec,
)

__all__ = [
    "CODECS",
    "ENCODERS",
    "FORMATS",
    "MIN_SECONDS",
    "PIXELS",
    "QUALITY",
    "SAMPLE_RATE",
    "AudioReader",
    "Clip",
    "Color",
    "Frame",
    "Length",
    "MediaInfo",
    "Part",
    "Picture",
    "Source",
    "VideoReader",
    "VideoWriter",
    "can_encode",
    "check_codec",
    "check_extend",
    "check_quality",
    "decoded",
    "encoded",
    "exact",
    "fitted",
    "open_source",
    "plain_info",
    "plan_frames",
    "probe",
    "read_clip",
    "read_picture",
    "remove_parts",
    "resampled",
    "through_codec",
    "write_wav",
]
