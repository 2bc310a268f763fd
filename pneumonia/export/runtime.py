"""A bundle that answers: from the bytes of an image file to probabilities, on ONNX Runtime and without torch."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.decode import decode, read_header
from pneumonia.data.images.limits import MAX_PIXELS, UnreadableImageError
from pneumonia.errors import BundleError, TamperedBundleError
from pneumonia.export.contract import (
    MODEL,
    OOD_DETECTOR,
    OPSET,
    CalibrationFacts,
    Contract,
    OperatingPoint,
    read_contract,
    read_regular,
)
from pneumonia.export.onnx_header import opset_of
from pneumonia.export.ood_detector import SIDE, OodDetector
from pneumonia.metrics.calibration import Temperature, apply_temperature
from pneumonia.tasks import NORMAL, UNKNOWN_KIND

NOISE: Final = (
    1e-6  # of arithmetic on another machine, which must not decide on the image that a threshold was taken from
)
QUIET: Final = 3  # ONNX Runtime's level for errors alone


@dataclass(frozen=True)
class Prediction:
    """What a bundle predicts for one image. All of it but ``raw`` is on one scale, that of ``probabilities``.

    Attributes:
        label: The likeliest class; ``None`` where the bundle abstains or the image is out of distribution.
        probabilities: By class, calibrated where the bundle has a temperature, else equal to ``raw``.
        raw: By class, as the network gives them and ``pneumonia evaluate`` writes them.
        calibrated: Whether the bundle has a temperature.
        temperature: By which the logits were divided; ``None`` where there is none.
        confidence: The highest of ``probabilities``, which abstention goes by.
        abstained: ``confidence`` is below the contract's: the image belongs before a person.
        out_of_distribution: It does not look like the X-rays that the model knows; then no probability means anything.
        ood_score: How unlike them it is, from 0 to 2.
        ood_threshold: Above it an image is out of distribution.
        decisions: For each yes-or-no question whether its score reaches the threshold; ``None`` where there is no threshold,
            and where ``label`` is ``None``. The score is the sum of the probabilities that mean yes.
        bundle_version: Of all that answered.
        model_version: The run that was exported.
    """

    label: str | None
    probabilities: dict[str, float]
    raw: dict[str, float]
    calibrated: bool
    temperature: float | None
    confidence: float
    abstained: bool
    out_of_distribution: bool
    ood_score: float
    ood_threshold: float
    decisions: dict[str, bool | None]
    bundle_version: str
    model_version: str

    @property
    def likeliest(self) -> str:
        """The class of the highest probability, also where the bundle gives no label."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Bundle:
    """A loaded bundle; safe to call from several threads at once.

    Args:
        contract: What is promised.
        graph: The bytes of ``model.onnx``.
        ood_detector: Of the inputs.
        threads: That one image may use.
    """

    def __init__(self, contract: Contract, graph: bytes, ood_detector: OodDetector, threads: int = 1) -> None:
        self.contract = contract
        self.ood_detector = ood_detector
        self._session = _session(graph, threads)
        self._temperature = Temperature(contract.calibration.temperature)
        self._check_graph()

    @classmethod
    def load(cls, path: Path | str, threads: int = 1) -> "Bundle":
        """The bundle in a folder, once every byte of it is known to be the one that was exported.

        Raises:
            TamperedBundleError: A file is missing, or has other bytes than the contract says.
            ParityError: The exported model is not the trained one.
            BundleError: It is no bundle, or of another version; or ONNX Runtime is not installed.
        """
        folder = Path(path)
        contract = read_contract(folder)
        held = {name: _verified(folder / name, sha256) for name, sha256 in contract.files.items()}
        found = opset_of(held[MODEL])
        if found != OPSET:
            what = "is not an ONNX model" if found is None else f"has ONNX opset {found}"
            raise BundleError(f"{folder / MODEL} {what}, and this version serves opset {OPSET}. Export the run again.")
        detector = OodDetector.from_bytes(held[OOD_DETECTOR], contract.ood_detector.threshold)
        if (contract.ood_detector.prototypes, contract.ood_detector.side) != (len(detector.prototypes), SIDE):
            raise BundleError(
                f"{folder / OOD_DETECTOR} holds {len(detector.prototypes)} prototypes of {SIDE} pixels a side, and its contract "
                f"says {contract.ood_detector.prototypes} of {contract.ood_detector.side}. Export the run again."
            )
        return cls(contract, held[MODEL], detector, threads)

    def square(self, data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """The grey square ``(size, size)`` that the network sees of an image file.

        Args:
            data: JPEG, PNG, BMP, TIFF or DICOM.
            max_pixels: More are refused before any is decoded.

        Raises:
            UnreadableImageError: Why the file can't be read.
        """
        if max_pixels < MAX_PIXELS:
            header = read_header(data)
            if header.width * header.height > max_pixels:
                raise UnreadableImageError(f"{header.width}x{header.height} is more than {max_pixels:,} pixels")
        return decode(data, self.contract.image.size, self.contract.image.resize)

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``(B, K)`` of grey squares ``(B, size, size)``.

        Raises:
            BundleError: The graph can't be run, or gives no numbers.
        """
        try:
            found: NDArray[np.float32] = self._session.run(None, {"image": np.ascontiguousarray(squares[:, None])})[0]
        except Exception as error:  # ONNX Runtime's own errors have no common base
            raise BundleError(f"The graph can't be run ({type(error).__name__}). Export the run again.") from error
        if found.shape != (len(squares), len(self.contract.classes)) or not np.isfinite(found).all():
            raise BundleError(
                f"The graph gives {found.shape} with {int((~np.isfinite(found)).sum())} undefined logits for {len(squares)} "
                f"images, and its contract names {len(self.contract.classes)} classes. Export the run again."
            )
        return found

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw probabilities ``(B, K)`` of grey squares ``(B, size, size)``."""
        return softmax(self.logits(squares))

    def calibrate(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw probabilities ``(B, K)`` after the temperature."""
        return apply_temperature(raw, self._temperature)

    def predict(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Prediction:
        """What the bundle says of one image file.

        Raises:
            UnreadableImageError: Why the file can't be read.
        """
        return self.predict_square(self.square(data, max_pixels))

    def answers(self, images: Sequence[bytes], max_pixels: int = MAX_PIXELS) -> list[Prediction]:
        """The answers of several files, each the very one that it would have alone: one at a time, they share no arithmetic.

        Raises:
            UnreadableImageError: One can't be read.
        """
        return [self.predict(data, max_pixels) for data in images]

    def predict_square(self, square: NDArray[np.uint8]) -> Prediction:
        """What the bundle says of a square from :meth:`square`."""
        contract = self.contract
        raw = self.probabilities(square[None])
        shown, plain = self.calibrate(raw)[0].tolist(), raw[0].tolist()
        confidence, least = max(shown), contract.abstention.confidence
        score = self.ood_detector.score(square)
        unlike = score > contract.ood_detector.threshold
        unsure = least is not None and confidence < least - noise(contract.calibration)
        decisions = decide(contract.operating_points, contract.classes, shown, contract.calibration)
        silent = unlike or unsure
        return Prediction(
            label=None if silent else contract.classes[int(raw[0].argmax())],
            probabilities=dict(zip(contract.classes, shown, strict=True)),
            raw=dict(zip(contract.classes, plain, strict=True)),
            calibrated=contract.calibration.temperature is not None,
            temperature=contract.calibration.temperature,
            confidence=confidence,
            abstained=unsure,
            out_of_distribution=unlike,
            ood_score=score,
            ood_threshold=contract.ood_detector.threshold,
            decisions=dict.fromkeys(decisions) if silent else decisions,
            bundle_version=contract.bundle_version,
            model_version=contract.model.version,
        )

    def _check_graph(self) -> None:
        """Refuses a graph that takes or gives something else than the contract says, or takes one number of images alone."""
        size, classes = self.contract.image.size, len(self.contract.classes)
        inputs = [(one.name, one.type, list(one.shape[1:])) for one in self._session.get_inputs()]
        outputs = [(one.name, one.type, list(one.shape[1:])) for one in self._session.get_outputs()]
        if inputs != [("image", "tensor(uint8)", [1, size, size])] or outputs != [
            ("logits", "tensor(float)", [classes])
        ]:
            raise BundleError(
                f"The graph takes {inputs} and gives {outputs}, which is not what its contract says: grey squares of {size} "
                f"pixels, {classes} classes. Export the run again."
            )
        self.logits(np.zeros((2, size, size), dtype=np.uint8))


def noise(calibration: CalibrationFacts) -> float:
    """The noise of arithmetic, as a temperature below 1 magnifies it."""
    return NOISE / min(calibration.temperature or 1.0, 1.0)


def decide(
    points: Sequence[OperatingPoint],
    classes: Sequence[str],
    probabilities: Sequence[float],
    calibration: CalibrationFacts,
) -> dict[str, bool | None]:
    """For each yes-or-no question whether its score reaches its threshold; ``None`` where there is none.

    Args:
        points: The questions.
        classes: Of the task.
        probabilities: ``(K,)``, calibrated.
        calibration: That of the probabilities.
    """
    stated = dict(zip(classes, probabilities, strict=True))
    found: dict[str, bool | None] = {}
    for point in points:
        score = 1 - stated[NORMAL] if point.positive == UNKNOWN_KIND else stated[point.positive]
        found[point.positive] = None if point.threshold is None else score >= point.threshold - noise(calibration)
    return found


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities ``(B, K)`` in the precision in which they are kept, single."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float64)
    return shares


def _verified(path: Path, sha256: str) -> bytes:
    raw = read_regular(path)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise TamperedBundleError(
            f"{path} is not the file that was exported: its SHA-256 is not the one of the contract. Nothing was loaded. Take the "
            "bundle from where it was exported, or export the run again."
        )
    return raw


def _session(graph: bytes, threads: int) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; its own call does not stop it
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError(
            f"ONNX Runtime, which answers for a bundle, can't be imported ({error}). pip install 'pneumonia[serve]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = QUIET
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors have no common base
        raise BundleError(f"ONNX Runtime refuses the graph ({type(error).__name__}). Export the run again.") from error
