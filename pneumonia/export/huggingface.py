"""Build the files of a repository for a model hub: a model card, weights and a config, beside those of a bundle."""

import json
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Final

import yaml
from jinja2 import Environment, StrictUndefined
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pneumonia.errors import BundleError
from pneumonia.export.bundle_folder import FolderKind
from pneumonia.export.contract import CONTRACT, MODEL, OOD_DETECTOR, Contract
from pneumonia.metrics.classification import metric_label
from pneumonia.models.base import Classifier
from pneumonia.models.factory import build_classifier, family_of
from pneumonia.models.options import ClassifierOptions

CARD: Final = "README.md"
CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
HUB: Final = FolderKind(
    "model repository", "--huggingface", frozenset({CARD, CONFIG, WEIGHTS, MODEL, OOD_DETECTOR, CONTRACT}), "hub"
)
HUB_METRICS: Final = {"f1_macro": "f1", "recall_macro": "recall", "precision_macro": "precision", "auroc": "roc_auc"}
LICENCES: Final = {  # of the hub, by their usual names
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "cc0-1.0", "unlicense"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
}


@dataclass(frozen=True)
class ShownMetric:
    """A metric of the card; ``None`` where it is undefined."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def label(self) -> str:
        return metric_label(self.name)


def hub_files(contract: Contract, classifier: Classifier) -> dict[str, bytes]:
    """Return model card, config and weights by name; their bytes depend on the run alone."""
    return {
        CARD: model_card(contract).encode(),
        CONFIG: (json.dumps(hub_config(contract, classifier), indent=2, allow_nan=False) + "\n").encode(),
        WEIGHTS: _weights(classifier),
    }


def hub_config(contract: Contract, classifier: Classifier) -> dict[str, object]:
    """Return the content of ``config.json``: names of classes, preprocessing, and the options that build the network."""
    model = {key: value for key, value in classifier.hparams.items() if key != "options"}
    return {
        "model_type": "pneumonia",
        "architectures": [contract.model.family],
        "problem_type": "single_label_classification",
        "task": contract.task,
        "id2label": {str(number): name for number, name in enumerate(contract.classes)},
        "label2id": {name: number for number, name in enumerate(contract.classes)},
        "image_size": contract.preprocessing.size,
        "num_channels": contract.preprocessing.channels,
        "preprocessing": contract.preprocessing.model_dump(mode="json"),
        "model": model,
        "options": classifier.options.to_plain(),
        "bundle_version": contract.bundle_version,
    }


def load_hub_model(folder: str | PathLike[str]) -> Classifier:
    """Build the classifier of a repository, with its weights, in evaluation mode.

    Raises:
        BundleError: The config or the weights are missing, damaged, or do not belong together.
        TargetError: The config names a class outside this package.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text())
        model, options = config["model"], ClassifierOptions.from_plain(config["options"])
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(
            f"{folder} holds no {CONFIG} and {WEIGHTS} of `pneumonia export --huggingface`, or they are damaged "
            f"({type(error).__name__}: {error}). Export the run again."
        ) from error
    family_of(model, (), f"{folder / CONFIG}: model")
    classifier = build_classifier(model, options)
    try:
        classifier.network.load_state_dict(weights)
    except RuntimeError as error:
        raise BundleError(f"{folder / WEIGHTS} holds other weights than {CONFIG} says: {error}") from error
    return classifier.eval()


def model_card(contract: Contract) -> str:
    """Return ``README.md``: front matter for the hub, then metrics, limitations and use for people."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["metric"] = lambda value: "undefined" if value is None else f"{value:.4f}"
    template = environment.from_string((files("pneumonia.export") / "model_card.md.jinja").read_text(encoding="utf-8"))
    front_matter = yaml.safe_dump(_front_matter(contract), sort_keys=False, allow_unicode=True)
    return template.render(contract=contract, metrics=shown_metrics(contract), front_matter=front_matter)


def shown_metrics(contract: Contract) -> list[ShownMetric]:
    """Return the metrics of the test split with intervals, or those of validation where the run was not evaluated."""
    test = contract.metrics.test
    if test is None:
        return [ShownMetric(name, value) for name, value in contract.metrics.val.items()]
    return [ShownMetric(name, one.value, one.low, one.high) for name, one in test.metrics.items()]


def _front_matter(contract: Contract) -> dict[str, object]:
    test = contract.metrics.test is not None
    metrics = [one for one in shown_metrics(contract) if one.value is not None]
    data = contract.data
    result = {
        "task": {"type": "image-classification", "name": f"Classification as {', '.join(contract.classes)}"},
        "dataset": {
            "type": data.source,
            "name": f"chest X-rays ({data.source}, split {data.split})",
            "split": "test" if test else "validation",
            "revision": data.manifest_sha256,
        },
        "metrics": [_metric(one) for one in metrics],
    }
    family = contract.model.family.lower()
    return {
        **_licence(contract.licence),
        "library_name": "pneumonia",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "medical-imaging", "pneumonia", family, "onnx", "pytorch", "safetensors"],
        "metrics": sorted({HUB_METRICS.get(one.name, one.name) for one in metrics}),
        "model-index": [{"name": contract.model.version, "results": [result]}],
    }


def _metric(one: ShownMetric) -> dict[str, object]:
    found: dict[str, object] = {"type": HUB_METRICS.get(one.name, one.name), "name": one.label, "value": one.value}
    if one.low is None or one.high is None:
        return found
    interval = {"confidence": 0.95, "low": one.low, "high": one.high}
    return {**found, "name": f"{one.label} (95% interval {one.low:.4f} to {one.high:.4f})", "args": interval}


def _licence(text: str) -> dict[str, str]:
    """Return the identifier that the hub has for a licence; others are named in the text of the card."""
    name = "-".join(text.lower().split())
    if name in LICENCES:
        return {"license": name}
    return {"license": "other", "license_name": "see-model-card"}


def _weights(classifier: Classifier) -> bytes:
    """Return the weights that predict (averaged ones, where there are any), each in memory of its own."""
    state = classifier.evaluated_network().state_dict()
    return save({name: weight.detach().contiguous().clone() for name, weight in state.items()}, {"format": "pt"})
