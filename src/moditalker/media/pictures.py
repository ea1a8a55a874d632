"""Still pictures -> RGB: orientation, colour profile, alpha, bit depth and size."""

from __future__ import annotations

import io
import math
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms, ImageOps

from moditalker.errors import UserError
from moditalker.media.files import MAX_PICTURE, MIN_SIDE, PathLike, Pixels, local, still

LEVEL_SIDE, LEVEL_PIXELS = 4096, 36_864 * 256  # the largest frame of H.264 level 5.2


def read_picture(path: PathLike) -> tuple[Pixels, list[str]]:
    """Read a picture -> (H, W, 3) uint8 RGB, and notes. Raises UserError.

    EXIF orientation and colour profile are applied, alpha is shown on white, 16 bits become 8, and what is
    larger than a frame of H.264 level 5.2 is reduced.
    """
    path = local(path)
    if (opened := still(path)) is None:
        raise UserError(
            f"{path}: this is no picture that can be read; give a PNG, JPEG, WebP, AVIF, BMP or TIFF file."
        )
    notes = []
    with opened as picture:
        width, height = picture.size
        if min(width, height) < MIN_SIDE or width * height > MAX_PICTURE:
            raise UserError(
                f"{path}: a picture of {width}x{height} pixels; each side must have at least {MIN_SIDE}, the "
                f"whole at most {MAX_PICTURE // 10**6} megapixels: choose another."
            )
        try:
            scale = min(1.0, LEVEL_SIDE / max(width, height), math.sqrt(LEVEL_PIXELS / (width * height)))
            size = (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
            if scale < 1:
                picture.draft(None, size)  # lets a JPEG decode at 1/2, 1/4 or 1/8 at once
            image = _eight_bits(picture)
            if scale < 1:
                image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
                notes.append(
                    f"{path.name}: reduced from {width}x{height} to {size[0]}x{size[1]} (H.264 level 5.2)."
                )
            if image.mode.endswith("A"):  # RGBA, LA, PA
                clear = np.asarray(image.getchannel("A")).min() < 255
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
                image = image.convert("RGB")
                if clear:
                    notes.append(f"{path.name}: transparent parts are shown on white.")
            image = _to_srgb(image, picture.info.get("icc_profile")).convert("RGB")
            image.getexif()[0x0112] = picture.getexif().get(0x0112, 1)
            return np.asarray(ImageOps.exif_transpose(image)), notes
        except Exception as error:  # damaged files raise many kinds
            raise UserError(f"{path}: the picture is damaged or cut off ({error}); save it again.") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16-bit grey, 32-bit integers, floats
        values = np.nan_to_num(np.asarray(picture).astype(np.float32))
        peak = 1 if picture.mode == "F" and values.max() <= 1 else 65535
        return Image.fromarray(((values / peak).clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return picture.convert("RGBA") if picture.mode == "P" or "transparency" in picture.info else picture


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile (phones write Display P3); one that does not fit is ignored."""
    if profile and image.mode in ("RGB", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            result = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return result or image
    return image
