"""`pneumonia export`: export a finished run as a bundle, and prove that it predicts the same."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pneumonia.cli.parsing import FOLDER, PATH, Verb, cache_dir
from pneumonia.system.console import announce_loading, say, table, warn

if TYPE_CHECKING:
    from pneumonia.export.contract import Contract

ALLOWED_FALSE_ALARMS = 0.01
EXAMPLES = (
    "pneumonia export runs/article_final/RUN_ID --out bundle",
    'pneumonia export runs/article_final/RUN_ID --huggingface hub --licence "CC BY 4.0"',
)


@click.command(cls=Verb, examples=EXAMPLES)
@click.argument("run", metavar="RUN", type=PATH)
@click.option("--out", metavar="BUNDLE", type=FOLDER, help="Folder of the bundle to write.")
@click.option("--huggingface", metavar="DIR", type=FOLDER, help="Folder to write for a model hub; nothing is uploaded.")
@click.option(
    "--coverage",
    metavar="X",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    help="Fraction of validation images to predict; the model abstains on the others.",
)
@click.option("--licence", metavar="TEXT", help="Terms of the weights, for the contract.")
@click.option("--force", is_flag=True, help="Replace an existing export.")
@click.option("--data", metavar="DIR", type=PATH, help="Where the images of the run are now.  [default: as in training]")
@cache_dir
def command(
    run: Path,
    out: Path | None,
    huggingface: Path | None,
    coverage: float,
    licence: str | None,
    force: bool,
    data: Path | None,
    cache_dir: Path,
) -> None:
    """Export RUN as a bundle that predicts without torch. Not a medical device.

    A bundle is an ONNX graph that takes grey levels, an out-of-distribution detector, contract.json with everything that serving
    needs, and model.tar.gz with the same for SageMaker. Every validation image is predicted by the bundle and by the trained
    model, from the bytes of its file; no bundle is written if the outputs differ.

    --huggingface writes the files of a bundle with a model card, config.json and model.safetensors, to be pushed to a model hub.
    """
    if out is None and huggingface is None:
        raise click.UsageError("Name the folder to write: --out BUNDLE, --huggingface DIR, or both.")
    from pneumonia.runs.load import load_finished_run

    load_finished_run(run)  # a wrong folder is reported before torch is imported
    announce_loading()
    from pneumonia.export.export import ExportOptions, export
    from pneumonia.system.console import quiet

    quiet()
    contract = export(ExportOptions(run, out, coverage, licence, force, data, cache_dir, huggingface))
    _show(contract)
    if out is not None:
        say(f"Bundle: {out}")
    if huggingface is not None:
        if contract.metrics.test is None:
            warn("The run was not evaluated on its test split: the model card has the metrics of validation, and says so.")
        say(f"Model repository: {huggingface}")


def _show(contract: "Contract") -> None:
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
