"""Run a bundle: from the bytes of an image file to a prediction, on ONNX Runtime and without torch."""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.images.decode import decode, read_header
from pneumonia.data.images.limits import MAX_PIXELS, UnreadableImageError
from pneumonia.errors import BundleError, TamperedBundleError
from pneumonia.export.contract import MODEL, OOD_DETECTOR, OPSET, Contract
from pneumonia.export.contract_file import AGAIN, read_contract, read_regular
from pneumonia.export.onnx_header import opset_of
from pneumonia.export.ood_detector import SIDE, OodDetector
from pneumonia.export.prediction import Prediction, decide, rounding
from pneumonia.metrics.calibration import Temperature, apply_temperature

ERRORS_ONLY: Final = 3  # log severity of ONNX Runtime


class Bundle:
    """A loaded bundle; threads may share it.

    Args:
        contract: Describes model and preprocessing.
        graph: The bytes of ``model.onnx``.
        ood_detector: Flags images that are no X-rays.
        threads: Number of threads of one prediction.

    Raises:
        BundleError: The graph can't be run or does not match the contract; or ONNX Runtime is not installed.
    """

    def __init__(self, contract: Contract, graph: bytes, ood_detector: OodDetector, threads: int = 1) -> None:
        self.contract = contract
        self.ood_detector = ood_detector
        self._session = _session(graph, threads)
        self._temperature = Temperature(contract.calibration.temperature)
        self._check_graph()

    @classmethod
    def load(cls, path: Path | str, threads: int = 1) -> "Bundle":
        """Load a bundle and check every byte of it.

        Raises:
            TamperedBundleError: A file is missing or has other bytes than the contract says.
            ParityError: The exported model differs from the trained one.
            BundleError: It is no bundle or has another version; see also :class:`Bundle`.
        """
        folder = Path(path)
        contract = read_contract(folder)
        content = {name: _read_verified(folder / name, sha256) for name, sha256 in contract.files.items()}
        opset = opset_of(content[MODEL])
        if opset != OPSET:
            problem = "is not an ONNX model" if opset is None else f"has ONNX opset {opset}"
            raise BundleError(f"{folder / MODEL} {problem}; this version runs opset {OPSET}. {AGAIN}")
        info = contract.ood_detector
        detector = OodDetector.from_bytes(content[OOD_DETECTOR], info.threshold)
        if (info.prototypes, info.side) != (len(detector.prototypes), SIDE):
            raise BundleError(
                f"{folder / OOD_DETECTOR} holds {len(detector.prototypes)} prototypes of {SIDE} pixels a side; its contract says "
                f"{info.prototypes} of {info.side}. {AGAIN}"
            )
        return cls(contract, content[MODEL], detector, threads)

    def decode(self, data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """Decode an image file to the grey square ``(size, size)`` that the network takes.

        Args:
            data: JPEG, PNG, BMP, TIFF or DICOM.
            max_pixels: Larger images are refused by their header.

        Raises:
            UnreadableImageError: Why the file can't be read.
        """
        if max_pixels < MAX_PIXELS:
            header = read_header(data)
            if header.width * header.height > max_pixels:
                raise UnreadableImageError(f"{header.width}x{header.height} is more than {max_pixels:,} pixels")
        return decode(data, self.contract.preprocessing.size, self.contract.preprocessing.resize)

    def logits(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``(B, K)`` of grey squares ``(B, size, size)``.

        Raises:
            BundleError: The graph can't be run, or its logits are undefined.
        """
        try:
            found: NDArray[np.float32] = self._session.run(None, {"image": np.ascontiguousarray(squares[:, None])})[0]
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise BundleError(f"The graph can't be run ({type(error).__name__}). {AGAIN}") from error
        if found.shape != (len(squares), len(self.contract.classes)) or not np.isfinite(found).all():
            raise BundleError(
                f"The graph returns {found.shape} with {int((~np.isfinite(found)).sum())} undefined logits for {len(squares)} "
                f"images and {len(self.contract.classes)} classes. {AGAIN}"
            )
        return found

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return uncalibrated probabilities ``(B, K)`` of grey squares ``(B, size, size)``, in single precision."""
        logits = self.logits(squares)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: NDArray[np.float64] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float64)
        return found

    def calibrate(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply the temperature to probabilities ``(B, K)``."""
        return apply_temperature(raw, self._temperature)

    def predict(self, data: bytes, max_pixels: int = MAX_PIXELS) -> Prediction:
        """Predict one image file; see :meth:`decode`. Files are predicted one at a time, so no prediction depends on others.

        Raises:
            UnreadableImageError: Why the file can't be read.
        """
        return self.predict_square(self.decode(data, max_pixels))

    def predict_square(self, square: NDArray[np.uint8]) -> Prediction:
        """Predict a square of :meth:`decode`."""
        contract = self.contract
        raw = self.probabilities(square[None])
        calibrated = self.calibrate(raw)[0].tolist()
        confidence, threshold = max(calibrated), contract.abstention.confidence
        ood_score = self.ood_detector.score(square)
        out_of_distribution = ood_score > contract.ood_detector.threshold
        abstained = threshold is not None and confidence < threshold - rounding(contract.calibration)
        decisions = decide(contract.operating_points, contract.classes, calibrated, contract.calibration)
        silent = out_of_distribution or abstained
        return Prediction(
            label=None if silent else contract.classes[int(raw[0].argmax())],
            probabilities=dict(zip(contract.classes, calibrated, strict=True)),
            raw=dict(zip(contract.classes, raw[0].tolist(), strict=True)),
            calibrated=contract.calibration.temperature is not None,
            temperature=contract.calibration.temperature,
            confidence=confidence,
            abstained=abstained,
            out_of_distribution=out_of_distribution,
            ood_score=ood_score,
            ood_threshold=contract.ood_detector.threshold,
            decisions=dict.fromkeys(decisions) if silent else decisions,
            bundle_version=contract.bundle_version,
            model_version=contract.model.version,
        )

    def _check_graph(self) -> None:
        """Refuse a graph whose inputs or outputs do not match the contract, or that takes one number of images alone."""
        size, classes = self.contract.preprocessing.size, len(self.contract.classes)
        inputs, outputs = (
            [(one.name, one.type, list(one.shape[1:])) for one in ends]
            for ends in (self._session.get_inputs(), self._session.get_outputs())
        )
        expected = [("image", "tensor(uint8)", [1, size, size])], [("logits", "tensor(float)", [classes])]
        if (inputs, outputs) != expected:
            raise BundleError(
                f"The graph takes {inputs} and returns {outputs}; its contract says grey squares of {size} pixels and {classes} "
                f"classes. {AGAIN}"
            )
        self.logits(np.zeros((2, size, size), dtype=np.uint8))


def _read_verified(path: Path, sha256: str) -> bytes:
    raw = read_regular(path)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise TamperedBundleError(
            f"{path} was changed after the export: its SHA-256 is not that of the contract. Nothing was loaded. Copy the bundle "
            "from its source again, or export the run again."
        )
    return raw


def _session(graph: bytes, threads: int) -> Any:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; disable_telemetry_events() does not stop all of it
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError(
            f"A bundle needs ONNX Runtime, which can't be imported ({error}). pip install 'pneumonia[serve]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise BundleError(f"ONNX Runtime refuses the graph ({type(error).__name__}). {AGAIN}") from error
