"""Reads DICOM radiographs: checks the header before any pixel, then makes the grey levels that a viewer would show."""

import hashlib
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumonia.data.readable import UnreadableImageError, check_size, quietly

MAGIC: Final = b"DICM"
MAGIC_AT: Final = 128  # bytes of preamble, which may hold anything
PREFIX: Final = "DICOM-"
HEX_DIGITS: Final = 12  # of the patient's digest: 48 bits, no chance meeting in any release
INVERTED: Final = "MONOCHROME1"  # low values are white
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
META_GROUP: Final = 2
HEAD: Final = 2**16  # bytes; the transfer syntax stands in the first few hundred
EIGHT_BITS: Final = 8
FRAMES: Final = ("JPEG", "JPEG2000")  # by Pillow's names


def is_dicom(raw: bytes) -> bool:
    """Whether the first bytes of a file (132 or more) are those of a DICOM file."""
    return raw[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM files do; one that can't be opened does not."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(MAGIC_AT + len(MAGIC)))
    except OSError:
        return False


def dicom_header(raw: bytes) -> tuple[int, int, str]:
    """Width and height in pixels, and a mode such as ``DICOM MONOCHROME2``.

    Raises:
        UnreadableImageError: See :func:`read_dicom`; all but a break inside the pixels is found here.
    """
    with quietly():
        data = _checked(raw)
        return int(data.Columns), int(data.Rows), f"DICOM {data.PhotometricInterpretation}"


def read_dicom(raw: bytes) -> NDArray[np.uint8]:
    """The grey levels of a DICOM file as it is meant to be shown: ``(H, W)`` uint8, 0 black.

    Modality LUT or rescale first, then the VOI LUT or window (the first, where there are several), then MONOCHROME1 is
    inverted. Without a window, files of up to 8 bits stay as they are, and deeper ones are stretched from their lowest to
    their highest value, as viewers do: what a file declares as 16 bits often holds 12.

    Args:
        raw: The whole file.

    Raises:
        UnreadableImageError: Damaged, without pixels, several frames, colour, a compression that can't be read here,
            too small, too large, or a window that means nothing.

    Source: DICOM PS3.3, C.11.1 (modality), C.11.2 (values of interest), C.7.6.3.1.2 (photometric interpretation).
    """
    with quietly():
        data = _checked(raw)
        try:
            shown = _shown(data)
        except UnreadableImageError:
            raise
        except Exception as error:  # pydicom and its decoders raise whatever they stumble over
            raise UnreadableImageError(f"broken or cut short ({_brief(error)})") from error
    if shown.shape != (data.Rows, data.Columns):
        raise UnreadableImageError(
            f"its pixels have the shape {shown.shape}, its header says {data.Rows}x{data.Columns}"
        )
    if not np.isfinite(shown).all():
        raise UnreadableImageError("its rescale or window gives values that are no numbers")
    if data.PhotometricInterpretation == INVERTED:
        shown = 255 - shown
    return np.asarray(np.rint(shown), dtype=np.uint8)


def dicom_patient(path: Path) -> str | None:
    """A pseudonym of the patient: a digest of PatientID, or ``None`` where the file names no one or can't be read.

    The PatientID itself never leaves the file, since manifests are shared more freely than radiographs.
    """
    from pydicom import dcmread

    with quietly():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
            if _syntax(head) == DEFLATED:
                return None
            data = dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
            patient = str(data.get("PatientID") or "").strip()
        except Exception:  # whoever decodes the file says what is wrong with it
            return None
    return PREFIX + hashlib.sha256(patient.encode()).hexdigest()[:HEX_DIGITS] if patient else None


def _checked(raw: bytes) -> Any:
    """The dataset of a file whose pixels can be decoded."""
    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder

    try:
        syntax = _syntax(raw)
        if syntax == DEFLATED:
            raise UnreadableImageError(
                "deflated DICOM, which may unpack to any size. Save it with an uncompressed transfer syntax"
            )
        data = dcmread(io.BytesIO(raw))
        columns, rows, samples = (int(data.get(name, 0) or 0) for name in ("Columns", "Rows", "SamplesPerPixel"))
        frames, kind = int(data.get("NumberOfFrames", 1) or 1), str(data.get("PhotometricInterpretation", ""))
        has_pixels = bool(data.get("PixelData"))
        decoder = get_decoder(syntax) if syntax and syntax.is_encapsulated else None
    except UnreadableImageError:
        raise
    except NotImplementedError as error:
        raise UnreadableImageError(f"its transfer syntax can't be decoded ({_brief(error)})") from error
    except Exception as error:  # pydicom raises whatever it stumbles over
        raise UnreadableImageError(f"broken DICOM ({_brief(error)})") from error
    if "FloatPixelData" in data or "DoubleFloatPixelData" in data:
        raise UnreadableImageError("floating-point pixels have no defined scale")
    if not has_pixels:
        raise UnreadableImageError("a DICOM file without pixels")
    if samples > 1 or kind not in {INVERTED, "MONOCHROME2"}:
        raise UnreadableImageError(
            f"colour or unknown DICOM ({kind or 'no photometric interpretation'}), not a radiograph"
        )
    if frames != 1:
        raise UnreadableImageError(f"{frames} frames in one DICOM file, and which one is meant is not said")
    check_size(columns, rows)
    if decoder is not None and not decoder.is_available:
        raise UnreadableImageError(
            f"compressed as {syntax.name}, and no decoder is installed: pip install pylibjpeg pylibjpeg-libjpeg "
            "pylibjpeg-openjpeg"
        )
    if decoder is not None:
        _check_frame(data, (columns, rows))
    return data


def _check_frame(data: Any, size: tuple[int, int]) -> None:
    """Refuse a JPEG or JPEG 2000 frame of another size than the file's header says, which no limit of pixels has seen.

    Raises:
        UnreadableImageError: It is of another size.
    """
    from pydicom.encaps import get_frame

    try:
        with Image.open(io.BytesIO(get_frame(data.PixelData, 0, number_of_frames=1)), formats=FRAMES) as image:
            found = image.size
    except Exception:  # of another compression, or broken, and then its decoder says how
        return
    if found != size:
        raise UnreadableImageError(
            f"its compressed pixels are {found[0]}x{found[1]}, and its header says {size[0]}x{size[1]}"
        )


def _syntax(raw: bytes) -> Any:
    """The transfer syntax, read from the file's own header alone, before anything can be inflated."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(raw)
    file.seek(MAGIC_AT + len(MAGIC))
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != META_GROUP)
    return meta.get("TransferSyntaxUID")


def _shown(data: Any) -> NDArray[np.float64]:
    """Values from 0 to 255 after modality and window."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(data.pixel_array, data), dtype=np.float64)
    if data.get("VOILUTSequence"):
        full = 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return np.asarray(apply_voi(values.astype(np.int64), data) * (255 / full), dtype=np.float64)
    if data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        function = str(data.get("VOILUTFunction") or "LINEAR")
        return _windowed(values, _first(data.WindowCenter), _first(data.WindowWidth), function)
    low, high = _full_range(data, values)
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255  # where all are alike: black
    return np.asarray(scaled, dtype=np.float64)


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    if function == "SIGMOID" and width > 0:
        return np.asarray(255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), dtype=np.float64)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0, 1) * 255
    if function == "LINEAR" and width > 1:
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    if function == "LINEAR" and width == 1:
        return np.where(values > centre - 0.5, 255.0, 0.0)
    raise UnreadableImageError(f"its window (function {function}, width {width:g}) means nothing")


def _full_range(data: Any, values: NDArray[np.float64]) -> tuple[float, float]:
    """The values that become black and white where no window says so."""
    bits = int(data.BitsStored)
    if bits > EIGHT_BITS or data.PixelRepresentation or data.get("ModalityLUTSequence"):
        return float(values.min()), float(values.max())
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    ends = sorted((intercept, (2**bits - 1) * slope + intercept))
    return ends[0], ends[1]


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else value)


def _brief(error: Exception) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())[:200]
