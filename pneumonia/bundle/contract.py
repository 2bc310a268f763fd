"""What a bundle promises: read by the server and by ``predict``, sealed so that no word of it can change unseen."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from pneumonia.data.images import DECODER
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.storage.local import digest

SCHEMA: Final = 1
OPSET: Final = 20  # the graphs of this version; another may mean other arithmetic
CONTRACT: Final = "contract.json"
MODEL: Final = "model.onnx"
GATE: Final = "gate.npz"
ARCHIVE: Final = "model.tar.gz"
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
    """How a file becomes what the graph takes; see :func:`pneumonia.data.images.decode`.

    Attributes:
        size: Pixels a side.
        resize: ``squash`` or ``pad``.
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
    """The temperature fitted on the validation part, or why there is none."""

    temperature: float | None
    reason: str | None
    images: int


@dataclass(frozen=True)
class OperatingPoint:
    """A yes-or-no question: yes where the raw score is at or above ``threshold``, which has this sensitivity in validation."""

    positive: str
    sensitivity: float
    threshold: float | None
    reason: str | None


@dataclass(frozen=True)
class AbstentionFacts:
    """Answers whose raw highest probability is below ``confidence`` are left to a person.

    ``coverage`` is the share of validation images that is answered, ``risk`` the share of these that is told wrong.
    """

    asked: float
    confidence: float | None
    coverage: float | None
    risk: float | None
    reason: str | None


@dataclass(frozen=True)
class GateFacts:
    """The input gate and what it costs: ``false_alarms`` of ``measured_on`` real images that it was not fitted on."""

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
    """How far the bundle is from the trained model, over the whole validation part, from the bytes of the files.

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
        task: A name of :data:`pneumonia.labels.TASKS`.
        classes: In the order of the graph's outputs.
        data: What the model was trained on: hashes, counts by part, leaks.
        metrics: ``val``, and ``test`` where the run was evaluated on it.
        licence: Terms of the weights.
        intended_use: In one sentence.
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
    gate: GateFacts
    parity: ParityFacts
    data: Facts
    metrics: Facts
    licence: str
    intended_use: str
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
        own["gate"] = {**own["gate"], "false_alarm_rate": self.gate.false_alarm_rate}
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
        BundleError: There is none, or it is of another version.
    """
    path = folder / CONTRACT
    if folder.is_file():
        raise BundleError(
            f"{folder} is a file, and a bundle is a folder. Name its folder, or the one that model.tar.gz was unpacked into."
        )
    if not folder.is_dir():
        raise BundleError(f"There is no bundle {folder}. `pneumonia export RUN --out BUNDLE` makes one.")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle: it holds no {CONTRACT}. Name the folder of `pneumonia export`."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} can't be read ({error}). Export the run again.") from error
    try:
        plain = json.loads(text)
        schema, stated = plain["schema"], plain["seal"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TamperedBundleError(f"{path} is damaged ({type(error).__name__}). Export the run again.") from error
    if stated != _seal(plain):
        raise TamperedBundleError(
            f"{path} was changed after it was exported: its seal does not fit its words, so none of them can be relied on. "
            "Take the bundle from where it was exported, or export the run again."
        )
    if schema != SCHEMA:
        raise BundleError(f"{path} has schema {schema}, and this version reads {SCHEMA}. Export the run again.")
    try:
        contract = _typed(plain)
    except (KeyError, TypeError) as error:
        raise BundleError(f"{path} lacks what this version needs ({error}). Export the run again.") from error
    check_fit(contract, path)
    return contract


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
    gate = {key: value for key, value in own.pop("gate").items() if key != "false_alarm_rate"}
    return Contract(
        classes=tuple(own.pop("classes")),
        model=ModelFacts(**model),
        image=ImageFacts(**own.pop("image")),
        calibration=CalibrationFacts(**own.pop("calibration")),
        operating_points=tuple(OperatingPoint(**point) for point in own.pop("operating_points")),
        abstention=AbstentionFacts(**own.pop("abstention")),
        gate=GateFacts(**gate),
        parity=ParityFacts(**own.pop("parity")),
        limits=tuple(own.pop("limits")),
        **own,
    )
