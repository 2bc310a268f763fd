"""Decode DICOM radiographs; pydicom is loaded on first use."""

import hashlib
from pathlib import Path
from typing import Final

from pneumonia.data.images.dicom_files import is_dicom
from pneumonia.data.images.limits import UnreadableImageError, brief, open_regular_file, quietly
from pneumonia.system.arrays import Pixels

PREFIX: Final = "DICOM-"  # of a patient's pseudonym
HEX_DIGITS: Final = 12  # of a patient's digest: 48 bits, so that no two patients of a release share one
HEAD: Final = 2**20  # bytes; the transfer syntax and the patient are in the first few thousand


def dicom_header(raw: bytes) -> tuple[int, int, str]:
    """Return width and height in pixels, and a mode such as ``DICOM MONOCHROME2``.

    Raises:
        UnreadableImageError: See :func:`read_dicom`; all but damaged pixel data is found here.
    """
    from pneumonia.data.images.dicom_checks import checked_dataset

    with quietly():
        data = checked_dataset(raw)
        return int(data.Columns), int(data.Rows), f"DICOM {data.PhotometricInterpretation}"


def read_dicom(raw: bytes) -> Pixels:
    """Decode the bytes of a DICOM file to the grey levels that a viewer shows: ``(H, W)``, 0 black.

    Modality LUT or rescale first, then the first VOI LUT or window, then MONOCHROME1 is inverted. Without a window, files of
    up to 8 bits stay unchanged, and deeper ones are stretched from their lowest to their highest value, as viewers do: a file
    that declares 16 bits often holds 12. Padding is black, and excluded from that stretch.

    Raises:
        UnreadableImageError: Damaged, without pixels, several frames, colour, an unsupported compression, too small, too
            large, a header that contradicts itself, or an undefined window.

    Source: DICOM PS3.3, C.7.5.1.1.2 (padding), C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality), C.11.2 (values
    of interest); PS3.5, 8.1.1 (bits).
    """
    from pneumonia.data.images.dicom_checks import DECOMPRESS, checked_dataset
    from pneumonia.data.images.dicom_pixels import grey_levels

    with quietly():
        data = checked_dataset(raw)
        try:
            return grey_levels(data)
        except UnreadableImageError:
            raise
        except Exception as error:  # pydicom and its decoders raise errors of any type
            compressed = data.file_meta.TransferSyntaxUID.is_encapsulated
            advice = f". If a viewer shows it, {DECOMPRESS}" if compressed else ""
            raise UnreadableImageError(f"broken or cut short ({brief(error)}){advice}") from error


def dicom_patient(path: Path) -> str | None:
    """Return a pseudonym of the patient, a digest of PatientID; ``None`` if the file names none or can't be read.

    The PatientID itself never leaves the file, since manifests are shared more freely than radiographs.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    from pneumonia.data.images.dicom_checks import DEFLATED, CountedBytes, transfer_syntax

    tag = Tag("PatientID")
    with quietly():
        try:
            with open_regular_file(path) as file:
                head = file.read(HEAD)
            if not is_dicom(head) or transfer_syntax(head) == DEFLATED:
                return None
            data = read_partial(CountedBytes(head), lambda found, *_: found > tag, specific_tags=[tag], force=True)
            patient = str(data.get("PatientID") or "").strip()
        except Exception:  # decoding the file reports its problem
            return None
    digest = hashlib.sha256(patient.encode(errors="surrogateescape")).hexdigest()
    return PREFIX + digest[:HEX_DIGITS] if patient else None
