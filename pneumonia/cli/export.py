"""`pneumonia export`: a finished run as a bundle that proves it is the same model."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.cli import key_values
from pneumonia.errors import ConfigError
from pneumonia.system.console import announce_loading, say, table, warn

if TYPE_CHECKING:
    from pneumonia.export.contract import Contract

KEYS = ("data.root", "cache_dir")
DESCRIPTION = """Writes BUNDLE: the model as an ONNX graph that takes grey levels, an out-of-distribution detector, and
contract.json with all that whoever serves it must know; model.tar.gz holds the same for SageMaker. Every validation image is
compared, from the bytes of its file to its probabilities; where the bundle is not the trained model, none is written. Not a
medical device."""
ALLOWED_FALSE_ALARMS = 0.01


def run(arguments: list[str]) -> int:
    """Reads the words and exports.

    Raises:
        PneumoniaError: With the name of what is wrong.
    """
    parser = argparse.ArgumentParser("pneumonia export", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, as `pneumonia train` names it at its end")
    parser.add_argument("--out", metavar="BUNDLE", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--coverage",
        metavar="SHARE",
        default="0.9",
        help="of validation images to answer; it abstains on the others (0.9)",
    )
    parser.add_argument("--licence", metavar="TEXT", help="terms of the weights, for the contract")
    parser.add_argument("--force", action="store_true", help="take the place of a bundle that is there")
    parser.add_argument(
        "words", metavar="KEY=VALUE", nargs="*", help="data.root=DIR: where its images lie now; cache_dir=DIR"
    )
    options = parser.parse_intermixed_args(arguments)
    words = key_values(options.words, KEYS)
    coverage = _share(options.coverage)
    from pneumonia.runs.load import load_finished_run

    load_finished_run(options.run)  # a wrong folder is found before torch is imported
    announce_loading()
    from pneumonia.export.export import ExportOptions, export
    from pneumonia.system.console import quiet

    quiet()
    root = Path(words["data.root"]).expanduser() if words.get("data.root") else None
    cache_dir = Path(words.get("cache_dir") or os.environ.get("PNEUMONIA_CACHE") or "cache")
    order = ExportOptions(options.run, options.out, coverage, options.licence, options.force, root, cache_dir)
    _show(export(order), options.out)
    return 0


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ConfigError(
            f"--coverage {text} is no share of images; say a number above 0 and up to 1, for example 0.9."
        )
    return share


def _show(contract: "Contract", out: Path) -> None:
    parity, detector, calibration = contract.parity, contract.ood_detector, contract.calibration
    stated = f"{detector.false_alarms} of {detector.measured_on} ({detector.false_alarm_rate:.2%})"
    rows = [
        ("validation images compared", str(parity.images)),
        ("largest difference, raw", f"{parity.max_difference:.1e}"),
        ("largest difference, calibrated", f"{parity.max_difference_calibrated:.1e}"),
        ("largest difference from what the run recorded", f"{parity.max_difference_recorded:.1e}"),
        ("other labels", str(parity.changed_labels)),
        ("temperature", "none" if calibration.temperature is None else f"{calibration.temperature:.3f}"),
        ("false alarms of the out-of-distribution detector on unseen images", stated),
    ]
    table(f"Bundle {contract.bundle_version} of {contract.model.version}", ("what", "value"), rows)
    if calibration.reason:
        warn(f"No temperature: {calibration.reason}. The bundle's probabilities are those of the network.")
    if detector.false_alarm_rate > ALLOWED_FALSE_ALARMS:
        warn(
            f"The out-of-distribution detector flags {detector.false_alarm_rate:.1%} of unseen images of the run's own data, "
            f"more than {ALLOWED_FALSE_ALARMS:.0%}: the images are few, or unlike each other."
        )
    for text in (*contract.warnings, *filter(None, [contract.caveat])):
        warn(text)
    say(f"Bundle: {out}")
