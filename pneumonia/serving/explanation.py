"""What `POST /explanation` answers: the image as it was decoded, and where its likeliest class depends on it."""

import base64
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
FALLS: Final = (226, 74, 51)  # red: covering this place lowers the probability
RISES: Final = (52, 138, 189)  # blue: covering it raises the probability
FAINT: Final = 0.02  # of a probability; maps of smaller effects are paler, so that noise does not look like a finding
PICTURE: Final[dict[str, JsonValue]] = {"contentEncoding": "base64", "contentMediaType": "image/png"}


class ExplanationForm(BaseModel):
    """Two PNG pictures of the same size, and what the colours of the second mean."""

    explained_class: str = Field(description="The likeliest class of the image")
    image: str = Field(description="The image as it was decoded, grey", json_schema_extra=PICTURE)
    heat_map: str = Field(
        description="Occlusion map to lay over it: red where covering the place lowers the probability of the class, blue where "
        "it raises it, transparent where it changes nothing",
        json_schema_extra=PICTURE,
    )
    largest_fall: float = Field(
        description="Of the probability, where it is lowered most; 0 where it is lowered nowhere"
    )
    largest_rise: float = Field(description="Of the probability, where it is raised most; 0 where it is raised nowhere")
    bundle_version: str
    model_version: str
    ms: float = Field(description="Milliseconds from the whole request to the answer")


@dataclass(frozen=True)
class Explanation:
    """An image and its occlusion map.

    Attributes:
        explained_class: The likeliest class.
        image: PNG in base64, grey.
        heat_map: PNG in base64, of the same size, with transparency.
        largest_fall: Of the probability where a place is covered, at least 0.
        largest_rise: The same, where it rises.
    """

    explained_class: str
    image: str
    heat_map: str
    largest_fall: float
    largest_rise: float

    def form(self, bundle: Bundle, ms: float) -> ExplanationForm:
        """The answer to a request that took ``ms`` milliseconds."""
        contract = bundle.contract
        versions = {"bundle_version": contract.bundle_version, "model_version": contract.model.version}
        return ExplanationForm.model_validate({**asdict(self), **versions, "ms": round(ms, 3)})


def explanation_steps(bundle: Bundle, raw: bytes) -> Iterator[Explanation | None]:
    """Explain an image in steps: ``None`` after each batch of covered images, the explanation at last.

    Raises:
        UnreadableImageError: In the first step, the only one that decodes.
    """
    square = bundle.square(raw)
    header, resize = read_header(raw), bundle.contract.image.resize
    scale = SIDE / max(header.width, header.height)
    shape = (max(1, round(header.width * scale)), max(1, round(header.height * scale)))
    if resize == "pad":  # the network sees the black beside the image too, and so does the reader of the map
        shape = (SIDE, SIDE)
    image = cv2.resize(decode(raw, SIDE, resize), shape, interpolation=cv2.INTER_AREA)
    for found in occlusion_steps(bundle, square):
        if found is None:
            yield None
        else:
            fall, rise = max(float(found.heat.max()), 0.0), max(-float(found.heat.min()), 0.0)
            yield Explanation(found.label, _png(image), _png(_coloured(found.heat, shape)), fall, rise)


def _coloured(heat: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """``(height, width, 4)``, blue first as OpenCV writes it; the larger the effect, the less transparent."""
    smooth = cv2.resize(heat, shape, interpolation=cv2.INTER_CUBIC)
    top = max(float(np.abs(heat).max()), FAINT)
    image = np.zeros((*smooth.shape, 4), dtype=np.uint8)
    image[..., :3] = np.where(smooth[..., None] > 0, FALLS[::-1], RISES[::-1])
    image[..., 3] = np.clip(np.abs(smooth) / top * 255, 0, 255)
    return image


def _png(pixels: MatLike) -> str:
    return base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
