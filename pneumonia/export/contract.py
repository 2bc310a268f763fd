"""What a bundle promises: read by the server and by ``predict``, sealed so that no word of it can change unseen."""

import json
from dataclasses import asdict, dataclass, replace
from errno import EFBIG, EINVAL, ENOENT
from os import strerror
from pathlib import Path
from typing import Any, Final

from pneumonia.data.images.decode import DECODER
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.export.contract_schema import wrong_field
from pneumonia.system.files import digest

SCHEMA: Final = 3  # 3: `ood_detector` in the place of `gate`
OPSET: Final = 20  # the graphs of this version; another may mean other arithmetic
CONTRACT: Final = "contract.json"
MODEL: Final = "model.onnx"
OOD_DETECTOR: Final = "ood_detector.npz"
ARCHIVE: Final = "model.tar.gz"
LARGEST_FILE: Final = 2**20  # bytes of contract.json; real ones have about 4,000
Facts = dict[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """Which run it is: ``version`` is ``name/run_id``, ``family`` the class of the network, ``epoch`` counts from 1."""

    name: str
    run_id: str
    family: str
    seed: int
    epoch: int

    @property
    def version(self) -> str:
        return f"{self.name}/{self.run_id}"


@dataclass(frozen=True)
class ImageFacts:
    """How a file becomes what the graph takes; see :func:`pneumonia.data.images.decode.decode`.

    Attributes:
        size: Pixels a side.
        resize: ``stretch`` or ``pad``.
        decoder: Version of the decoding; a bundle is refused by a program that would decode otherwise.
        channels: That the network has; the graph takes one, grey, uint8, and repeats it.
        normalisation: ``method``, ``shift``, ``scale``; applied inside the graph.
        views: Test-time augmentation inside the graph.
    """

    size: int
    resize: str
    decoder: str
    channels: int
    normalisation: Facts
    views: str


@dataclass(frozen=True)
class CalibrationFacts:
    """The temperature fitted on the validation split, or why there is none."""

    temperature: float | None
    reason: str | None
    images: int


@dataclass(frozen=True)
class OperatingPoint:
    """A yes-or-no question: yes from ``threshold`` of its calibrated score on, which has this sensitivity in validation."""

    positive: str
    sensitivity: float
    threshold: float | None
    reason: str | None


@dataclass(frozen=True)
class AbstentionFacts:
    """Answers whose highest calibrated probability is below ``confidence`` are left to a person.

    ``coverage`` is the share of validation images that is answered, ``risk`` the share of these that is told wrong.
    """

    asked: float
    confidence: float | None
    coverage: float | None
    risk: float | None
    reason: str | None


@dataclass(frozen=True)
class OodDetectorFacts:
    """The out-of-distribution detector, and its ``false_alarms`` among ``measured_on`` real images that it was not fitted on."""

    threshold: float
    prototypes: int
    side: int
    fitted_on: int
    false_alarms: int
    measured_on: int

    @property
    def false_alarm_rate(self) -> float:
        return self.false_alarms / self.measured_on


@dataclass(frozen=True)
class ParityFacts:
    """How far the bundle is from the trained model, over the whole validation split, from the bytes of the files.

    ``largest`` is the largest difference of a probability, ``changed`` the number of other labels; against torch now, and
    against the predictions that the run recorded.
    """

    passed: bool
    images: int
    tolerance: float
    largest: float
    largest_calibrated: float
    changed: int
    changed_calibrated: int
    largest_recorded: float
    changed_recorded: int


@dataclass(frozen=True)
class Contract:
    """All that is promised.

    Attributes:
        task: A name of :data:`pneumonia.tasks.TASKS`.
        classes: In the order of the graph's outputs.
        data: What the model was trained on: hashes, counts by subset, leaks.
        metrics: ``val``, and ``test`` where the run was evaluated on it.
        licence: Terms of the weights.
        intended_use: In one sentence.
        warnings: Of the limits those that leave no answer of any use, such as a model that always predicts one class.
        limits: Sentences, with the measured figures.
        caveat: What must be known of the probabilities, where they are none; else empty.
        files: SHA-256 by name.
        onnx: ``opset``, ``ir_version``.
        versions: Of the programs that exported it.
        schema: Of this file.
        seal: SHA-256 of all the rest.
    """

    task: str
    classes: tuple[str, ...]
    model: ModelFacts
    image: ImageFacts
    calibration: CalibrationFacts
    operating_points: tuple[OperatingPoint, ...]
    abstention: AbstentionFacts
    ood_detector: OodDetectorFacts
    parity: ParityFacts
    data: Facts
    metrics: Facts
    licence: str
    intended_use: str
    warnings: tuple[str, ...]
    limits: tuple[str, ...]
    caveat: str
    files: dict[str, str]
    onnx: Facts
    versions: dict[str, str]
    schema: int = SCHEMA
    seal: str = ""

    @property
    def bundle_version(self) -> str:
        """Twelve hexadecimal digits that stand for every byte of the bundle."""
        return self.seal[:12]

    def sealed(self) -> "Contract":
        """The same, with its seal."""
        return replace(self, seal=_seal(self.as_dict()))

    def as_dict(self) -> Facts:
        """Plain values, in the order of the file."""
        own: Facts = json.loads(json.dumps(asdict(self), allow_nan=False))
        first = {"schema": own.pop("schema"), "bundle_version": self.bundle_version, "seal": own.pop("seal")}
        own["model"] = {**own["model"], "version": self.model.version}
        own["ood_detector"] = {**own["ood_detector"], "false_alarm_rate": self.ood_detector.false_alarm_rate}
        return first | own

    def text(self) -> str:
        """The file."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"


def _seal(plain: Facts) -> str:
    return digest({key: value for key, value in plain.items() if key not in {"seal", "bundle_version"}})


def read_contract(folder: Path) -> Contract:
    """The contract of a bundle, once it is known to be whole and fit for this program.

    Raises:
        TamperedBundleError: The contract was edited or damaged.
        ParityError: The bundle did not pass its own comparison with the trained model.
        BundleError: There is none, it is of another version, or a field holds what it must not.
    """
    path = folder / CONTRACT
    if folder.is_file():
        raise BundleError(
            f"{folder} is a file, and a bundle is a folder. Name its folder, or the one that model.tar.gz was unpacked into."
        )
    if not folder.is_dir():
        raise BundleError(f"There is no bundle {folder}. `pneumonia export RUN --out BUNDLE` makes one.")
    if not path.exists():
        raise BundleError(f"{folder} is not a bundle: it holds no {CONTRACT}. Name the folder of `pneumonia export`.")
    plain = _plain(path)
    if type(plain["schema"]) is not int or plain["schema"] != SCHEMA:
        raise BundleError(
            f"{path} has schema {plain['schema']!r:.40}, and this version reads {SCHEMA}. Export the run again."
        )
    wrong = wrong_field(plain)
    if wrong:
        raise BundleError(
            f"{path} has {wrong}. This program seals no such contract, so answers by it could not be relied on. Export the run "
            "again."
        )
    contract = _typed(plain)
    check_fit(contract, path)
    return contract


def _plain(path: Path) -> Facts:
    """What the file holds, once its seal is known to fit."""
    raw = read_regular(path, LARGEST_FILE)
    try:
        plain = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        seal = _seal(plain) if isinstance(plain, dict) else ""
        stated = plain["seal"], plain["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TamperedBundleError(
            f"{path} is damaged ({type(error).__name__}: {error}). Export the run again."
        ) from error
    if stated[0] != seal:
        raise TamperedBundleError(
            f"{path} was changed after it was exported: its seal does not fit its words, so none of them can be relied on. "
            "Take the bundle from where it was exported, or export the run again."
        )
    return dict(plain)


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a file of a bundle.

    Args:
        path: A pipe or a device, which may never end, is refused.
        most: Bytes.

    Raises:
        TamperedBundleError: It is gone, larger, or no regular file.
    """
    try:
        if not path.is_file():
            missing = FileNotFoundError(ENOENT, strerror(ENOENT))
            raise missing if not path.exists() else OSError(EINVAL, "it is no regular file")
        size = path.stat().st_size
        if most is not None and size > most:
            raise OSError(EFBIG, f"it has {size:,} bytes, and at most {most:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise TamperedBundleError(f"{path} can't be read ({error.strerror}). Export the run again.") from error


def _unique(pairs: list[tuple[str, Any]]) -> Facts:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it holds {next(key for key in keys if keys.count(key) > 1)!r:.80} twice")
    return found


def check_fit(contract: Contract, path: Path) -> None:
    """Refuses what this program would not serve as it was exported.

    Raises:
        ParityError, BundleError: See :func:`read_contract`.
    """
    parity = contract.parity
    if not parity.passed:
        raise ParityError(
            f"{path} says that the exported model differs from the trained one by {parity.largest:.2g} (tolerance "
            f"{parity.tolerance:g}) and tells {parity.changed} images otherwise. It is not the trained model. Export again."
        )
    if contract.onnx["opset"] != OPSET:
        raise BundleError(
            f"{path} holds a graph of ONNX opset {contract.onnx['opset']}, and this version serves opset {OPSET}. "
            "Export the run again."
        )
    if contract.image.decoder != DECODER:
        raise BundleError(
            f"{path} was measured with decoder {contract.image.decoder} of image files, and this version has {DECODER}: the same "
            "file would give other pixels. Export the run again."
        )


def _typed(plain: Facts) -> Contract:
    own = {key: value for key, value in plain.items() if key != "bundle_version"}
    model = {key: value for key, value in own.pop("model").items() if key != "version"}
    ood_detector = {key: value for key, value in own.pop("ood_detector").items() if key != "false_alarm_rate"}
    return Contract(
        classes=tuple(own.pop("classes")),
        model=ModelFacts(**model),
        image=ImageFacts(**own.pop("image")),
        calibration=CalibrationFacts(**own.pop("calibration")),
        operating_points=tuple(OperatingPoint(**point) for point in own.pop("operating_points")),
        abstention=AbstentionFacts(**own.pop("abstention")),
        ood_detector=OodDetectorFacts(**ood_detector),
        parity=ParityFacts(**own.pop("parity")),
        warnings=tuple(own.pop("warnings")),
        limits=tuple(own.pop("limits")),
        **own,
    )
