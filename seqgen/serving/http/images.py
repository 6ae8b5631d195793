"""Images in requests and answers: base64 PNG, dark on light as on paper, or nested lists of numbers, 1 = ink."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any, Literal

import numpy as np
from PIL import Image

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.foreign_pictures import foreign_picture

Format = Literal["png", "array"]
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 8 bits a channel at most


def read_image(field: str, given: Any, shape: tuple[int, int]) -> np.ndarray:
    """One image of a request, `{"png": ...}` or rows of numbers, as float32 [H,W] in [0,1].

    Raises BadInput naming `field`.
    """
    if isinstance(given, dict):
        if set(given) != {"png"} or not isinstance(given["png"], str):
            raise BadInput(
                f'{field}: an image is {{"png": "<base64>"}} or rows of numbers in [0, 1], not this object'
            )
        return _read_png(field, given["png"], shape)
    found = _array(field, given)
    if found.shape != shape:
        raise BadInput(f"{field}: shape {list(found.shape)}; the model takes [{shape[0]}, {shape[1]}]")
    bad = ~((found >= 0) & (found <= 1))
    if bad.any():
        raise BadInput(f"{field}: {found[bad][0]:g} among its values; they are in [0, 1], 1 = ink")
    return found.astype(np.float32)


def read_images(field: str, given: Any, shape: tuple[int, int], most: int) -> np.ndarray:
    """One image or a list of 1 to `most` of them, as float32 [n,H,W]."""
    if isinstance(given, dict) or not _is_list_of_images(given):
        return read_image(field, given, shape)[None]
    if not 1 <= len(given) <= most:
        raise BadInput(f"{field}: {len(given)} images; give 1 to {most}")
    return np.stack([read_image(f"{field}[{place}]", each, shape) for place, each in enumerate(given)])


def read_mask(field: str, given: Any, shape: tuple[int, int]) -> np.ndarray:
    """A mask as bool [H,W]: 1, or dark in a PNG, is True."""
    found = read_image(field, given, shape)
    if not isinstance(given, dict) and not ((found == 0) | (found == 1)).all():
        raise BadInput(f"{field}: values between 0 and 1; 1 = missing, 0 = seen")
    return found > 0.5


def write_images(images: np.ndarray, form: Format) -> Any:
    """Images [...,H,W] as nested lists of them, each as asked. Raises NumericalError for what is no number."""
    if not np.isfinite(images).all():
        raise NumericalError("the model drew what is no number; serve another version, or train again")
    return images.tolist() if form == "array" else _pngs(images)


def _pngs(images: np.ndarray) -> Any:
    if images.ndim > 2:
        return [_pngs(each) for each in images]
    return {"png": base64.b64encode(_png(images)).decode()}


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    grey = np.rint(255 * (1 - np.clip(image, 0, 1))).astype(np.uint8)
    Image.fromarray(grey).save(stream, "PNG")
    return stream.getvalue()


def _read_png(field: str, text: str, shape: tuple[int, int]) -> np.ndarray:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"{field}.png: not base64 ({error}); send the file's bytes in base64 alone") from None
    remedy = "send the file's bytes in base64"
    with foreign_picture(io.BytesIO(content), ["PNG"], f"{field}.png", remedy) as picture:
        # The size stands in the header: nothing of another size is decoded.
        if picture.size != shape[::-1]:
            width, height = picture.size
            raise BadInput(
                f"{field}.png: {height}x{width} pixels; the model takes {shape[0]}x{shape[1]} (height x width)"
            )
        if picture.mode not in _MODES:
            raise BadInput(f"{field}.png: mode {picture.mode}; send 8 bits a channel, grey or RGB")
        picture.load()
        paper = Image.new("RGBA", picture.size, "white")
        grey = Image.alpha_composite(paper, picture.convert("RGBA")).convert("L")
    return 1 - np.asarray(grey, np.float32) / 255


def _is_list_of_images(given: Any) -> bool:
    """Whether it is not one image in rows: a list of objects or of lists of lists."""
    if not isinstance(given, list) or not given:
        return isinstance(given, list)
    first = given[0]
    return isinstance(first, dict) or (isinstance(first, list) and bool(first) and isinstance(first[0], list))


def _array(field: str, given: Any) -> np.ndarray:
    try:
        # As objects: of numbers beside a text numpy would make texts, each as long as the longest.
        found = np.array(given, object)
        if not set(map(type, found.ravel())) <= {bool, int, float}:
            raise ValueError("rows of different lengths, or something else among the numbers")
        return found.astype(np.float64)
    except (ValueError, OverflowError):
        raise BadInput(
            f"{field}: no rows of numbers, all of one length; give [H][W] numbers in [0, 1]"
        ) from None
