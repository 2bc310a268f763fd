"""Turn the stored pixel values of a checked DICOM dataset into the grey levels that a viewer shows."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from pneumonia.data.images.jpeg2000 import JPEG_2000, decode_code, read_code
from pneumonia.data.images.limits import UnreadableImageError
from pneumonia.system.arrays import Bools, Floats, Ints, Pixels

INVERTED: Final = "MONOCHROME1"  # low values are white
RUN_LENGTH: Final = "1.2.840.10008.1.2.5"
EIGHT_BITS: Final = 8
MOST_TABLE_BITS: Final = 16  # grey levels of deeper pixels are computed for each value that occurs


@dataclass(frozen=True)
class Layout:
    """Position of a pixel's bits in its word (PS3.5, 8.1.1): ``stored`` bits, the last one at ``high``."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @classmethod
    def whole(cls, bits: int, signed: bool) -> "Layout":
        """Return the layout of a word that the value fills."""
        return cls(bits, bits, bits - 1, signed)

    @property
    def mask(self) -> int:
        """The bits of a stored value, at the low end."""
        return (1 << self.stored) - 1

    def values(self, bits: NDArray[Any]) -> Ints:
        """Return the numbers that the bits of stored values represent."""
        plain = bits.astype(np.int64)
        return np.where(plain >> self.stored - 1 & 1, plain - (1 << self.stored), plain) if self.signed else plain


def bit_layout(data: Any) -> Layout:
    """Return the checked bit layout of a pixel.

    Raises:
        UnreadableImageError: The header lacks it, contradicts itself, or the layout is not supported.
    """
    names = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    found = {name: data.get(name) for name in names}
    absent = [name for name, value in found.items() if value is None]
    if absent:
        raise UnreadableImageError(f"its header lacks {', '.join(absent)}, so the position of a pixel's bits is not known")
    allocated, stored, high, representation = map(int, found.values())
    plain = high == stored - 1 or not _decodes_to_stored(data)
    if not (1 <= stored <= high + 1 <= allocated <= 32 and representation in {0, 1} and plain):
        shown = ", ".join(f"{name} {value}" for name, value in found.items())
        raise UnreadableImageError(f"its bit layout contradicts itself or is not supported ({shown})")
    return Layout(allocated, stored, high, bool(representation))


def grey_levels(data: Any) -> Pixels:
    """Return grey levels ``(H, W)``. Each step depends on one pixel alone, so a table of all values serves the image.

    Raises:
        UnreadableImageError: The pixels are damaged, all padding, or do not fit the header.
    """
    layout = bit_layout(data)
    words = _words(data)
    index = words if _decodes_to_stored(data) else words >> (layout.high + 1 - layout.stored)
    index = index & layout.mask  # bits outside of the stored ones, such as overlays of older files, are ignored
    domain = np.arange(1 << layout.stored) if layout.stored <= MOST_TABLE_BITS else np.unique(index)
    if layout.stored > MOST_TABLE_BITS:
        index = np.searchsorted(domain, index)
    values = layout.values(domain)
    padded = _padded(data, layout, words, values, index)
    present = np.zeros(len(domain), dtype=bool)
    present[index[~padded]] = True
    if not present.any():
        raise UnreadableImageError("all of its pixels are padding")
    table = np.zeros(len(domain))
    table[present] = _shown(data, values[present].astype(np.float64))
    if not np.isfinite(table).all():
        raise UnreadableImageError("its rescale or window gives values that are not finite")
    if data.PhotometricInterpretation == INVERTED:
        table = 255 - table
    grey: Pixels = np.rint(table).astype(np.uint8)[index]
    grey[padded] = 0
    return grey


def _decodes_to_stored(data: Any) -> bool:
    """Return whether a decoder gives stored values, not whole words with other bits in them."""
    syntax = data.file_meta.TransferSyntaxUID
    return bool(syntax.is_encapsulated and syntax != RUN_LENGTH)


def _words(data: Any) -> NDArray[Any]:
    """Return unsigned words ``(H, W)`` of the pixels with all their bits.

    Raises:
        UnreadableImageError: Another shape than the header's, or compressed values beyond ``BitsStored``.
    """
    syntax = data.file_meta.TransferSyntaxUID
    if syntax in JPEG_2000:
        pixels = _jpeg2000_values(data)
    else:
        decoder = get_decoder(syntax)
        # pydicom annotates its options without Unpack
        pixels = decoder.as_array(data, raw=True, allow_excess_frames=False, correct_unused_bits=False)[0]  # type: ignore[arg-type]
    if pixels.shape != (data.Rows, data.Columns) or pixels.dtype.kind not in "iu":
        raise UnreadableImageError(
            f"its pixels are {pixels.dtype} of the shape {pixels.shape}, its header says {data.Rows}x{data.Columns}"
        )
    if _decodes_to_stored(data):
        layout = bit_layout(data)
        low, high = int(pixels.min()), int(pixels.max())
        ends = layout.values(np.array([layout.mask >> 1, (layout.mask >> 1) + 1, 0, layout.mask]))
        if low < ends.min() or high > ends.max():
            raise UnreadableImageError(f"its compressed values from {low} to {high} do not fit BitsStored {layout.stored}")
    return np.asarray(pixels.view(f"{pixels.dtype.byteorder}u{pixels.dtype.itemsize}"))


def _jpeg2000_values(data: Any) -> NDArray[Any]:
    """Return values ``(H, W)`` with the sign that the header declares, since the codes of some devices omit it."""
    code = read_code(get_frame(data.PixelData, 0, number_of_frames=1))
    values, layout = decode_code(code), bit_layout(data)
    if layout.signed and not code.signed and code.precision == layout.stored:
        return Layout.whole(layout.stored, signed=True).values(values)
    return values


def _padded(data: Any, layout: Layout, words: NDArray[Any], values: Ints, index: NDArray[Any]) -> Bools:
    """Return which pixels ``(H, W)`` are padding: stored values from PixelPaddingValue to PixelPaddingRangeLimit."""
    value, limit = data.get("PixelPaddingValue"), data.get("PixelPaddingRangeLimit")
    if value is None:
        if limit is not None:
            raise UnreadableImageError("it has PixelPaddingRangeLimit without PixelPaddingValue, so padding is not known")
        return np.zeros(words.shape, dtype=bool)
    whole = Layout.whole(layout.allocated, layout.signed)
    # Files often write it as an unsigned number although the pixels are signed.
    ends = whole.values(np.array([int(end) & whole.mask for end in (value, value if limit is None else limit)]))
    if layout.values(ends & layout.mask).tolist() == ends.tolist():
        return np.asarray(((values >= ends.min()) & (values <= ends.max()))[index])
    compared = whole.values(words)  # it needs more bits than a stored value has
    return np.asarray((compared >= ends.min()) & (compared <= ends.max()))


def _shown(data: Any, values: Floats) -> Floats:
    """Return grey levels from 0 to 255 of the stored values ``(N,)`` that occur, after modality and window."""
    signed = bool(data.PixelRepresentation)
    if data.get("ModalityLUTSequence"):
        values = _looked_up(values, data, data.ModalityLUTSequence[0], signed)[0]
    elif data.get("RescaleSlope") is not None:
        values = values * float(data.RescaleSlope) + float(data.RescaleIntercept)
    if data.get("VOILUTSequence"):
        found, bits = _looked_up(values, data, data.VOILUTSequence[0], bool(values.min() < 0))
        return np.asarray(found * (255 / (2**bits - 1)))
    if data.get("WindowCenter") is not None:
        function = str(data.get("VOILUTFunction") or "LINEAR").strip().upper()
        return _windowed(values, _first(data.WindowCenter), _first(data.WindowWidth), function)
    low, high = float(values.min()), float(values.max())
    if data.BitsStored <= EIGHT_BITS and not signed and not data.get("ModalityLUTSequence"):  # the full range
        slope = float(1 if data.get("RescaleSlope") is None else data.RescaleSlope)
        intercept = float(data.get("RescaleIntercept") or 0)
        low, high = sorted((intercept, (2 ** int(data.BitsStored) - 1) * slope + intercept))
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255  # black if all are equal


def _looked_up(values: Floats, data: Any, item: Any, signed: bool) -> tuple[Floats, int]:
    """Return values through a lookup table, and the bits of its entries; values beyond its ends get the end's entry."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries, first = entries or 2**16, first - 2**16 if signed and first >= 2**15 else first
    held = item.LUTData
    if isinstance(held, bytes):
        packed = bits <= EIGHT_BITS and len(held) < 2 * entries  # one byte an entry
        table = np.frombuffer(held, "u1" if packed else "<u2" if data.original_encoding[1] else ">u2")
    else:
        table = np.asarray(held, dtype=np.int64).reshape(-1) & 0xFFFF
    table = table[:entries].astype(np.float64)
    if len(table) < entries or not 1 <= bits <= MOST_TABLE_BITS or table.max() > 2**bits - 1:
        raise UnreadableImageError(f"its lookup table does not match its descriptor: {entries} entries of {bits} bits")
    return table[np.clip(np.floor(values) - first, 0, entries - 1).astype(np.int64)], bits


def _windowed(values: Floats, centre: float, width: float, function: str) -> Floats:
    if function == "SIGMOID" and width > 0:
        return np.asarray(255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), dtype=np.float64)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0, 1) * 255
    if function == "LINEAR" and width > 1:
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    if function == "LINEAR" and width == 1:
        return np.where(values > centre - 0.5, 255.0, 0.0)
    raise UnreadableImageError(f"its window is undefined (function {function}, width {width:g})")


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else value)
