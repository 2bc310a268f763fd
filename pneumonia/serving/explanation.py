"""Explain a prediction: the decoded image, and a heat map of the places on which its most probable class depends."""

import base64
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from pydantic import BaseModel, Field, JsonValue

from pneumonia.data.images.decode import decode, read_header
from pneumonia.export.occlusion import occlusion_steps
from pneumonia.export.runtime import Bundle

SIDE: Final = 512  # pixels of the longer side of both pictures
RED: Final = (226, 74, 51)  # covering this place lowers the probability
BLUE: Final = (52, 138, 189)  # covering it raises the probability
FAINT: Final = 0.02  # of a probability; maps of smaller effects are paler, so that noise does not look like a finding
PICTURE: Final[dict[str, JsonValue]] = {"contentEncoding": "base64", "contentMediaType": "image/png"}


class Explanation(BaseModel):
    """Two PNG pictures of the same size, and the meaning of the colours of the second."""

    explained_class: str = Field(description="The most probable class of the image")
    image: str = Field(description="The decoded image, grey", json_schema_extra=PICTURE)
    heat_map: str = Field(
        description="Occlusion map to lay over it: red where covering the place lowers the probability of the class, blue where "
        "it raises it, transparent where it changes nothing",
        json_schema_extra=PICTURE,
    )
    largest_fall: float = Field(description="Of the probability; 0 where no place lowers it")
    largest_rise: float = Field(description="Of the probability; 0 where no place raises it")
    bundle_version: str
    model_version: str


def explanation_steps(bundle: Bundle, raw: bytes) -> Iterator[Explanation | None]:
    """Explain an image in steps: yield ``None`` after each batch of covered images, then the explanation.

    Raises:
        UnreadableImageError: In the first step, the only one that decodes.
    """
    square = bundle.decode(raw)
    header, resize = read_header(raw), bundle.contract.preprocessing.resize
    scale = SIDE / max(header.width, header.height)
    shape = (max(1, round(header.width * scale)), max(1, round(header.height * scale)))
    if resize == "pad":  # the network sees the black beside the image too, so the map covers it
        shape = (SIDE, SIDE)
    image = cv2.resize(decode(raw, SIDE, resize), shape, interpolation=cv2.INTER_AREA)
    for found in occlusion_steps(bundle, square):
        yield (
            None
            if found is None
            else Explanation(
                explained_class=found.label,
                image=_png(image),
                heat_map=_png(_colour(found.heat, shape)),
                largest_fall=max(float(found.heat.max()), 0.0),
                largest_rise=max(-float(found.heat.min()), 0.0),
                bundle_version=bundle.contract.bundle_version,
                model_version=bundle.contract.model.version,
            )
        )


def _colour(heat: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return ``(height, width, 4)``, blue first as OpenCV writes it; the larger the effect, the less transparent."""
    smooth = cv2.resize(heat, shape, interpolation=cv2.INTER_CUBIC)
    top = max(float(np.abs(heat).max()), FAINT)
    image = np.zeros((*smooth.shape, 4), dtype=np.uint8)
    image[..., :3] = np.where(smooth[..., None] > 0, RED[::-1], BLUE[::-1])
    image[..., 3] = np.clip(np.abs(smooth) / top * 255, 0, 255)
    return image


def _png(pixels: MatLike) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
