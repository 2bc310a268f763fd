"""Convert a trained classifier to an ONNX graph, from grey levels to logits, in bytes that depend on its weights alone."""

import copy
import logging
import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn

from pneumonia.errors import BundleError
from pneumonia.export.contract import OPSET
from pneumonia.models.base import Classifier
from pneumonia.models.components.test_time_augmentation import VIEWS, mean_of_views

MAX_BATCH: Final = 1024  # an upper bound that the exporter needs


class Deployed(nn.Module):
    """The prediction of a :class:`pneumonia.models.base.Classifier`, without what it needs for training."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = copy.deepcopy(classifier.evaluated_network())
        self.network = network.to(memory_format=torch.contiguous_format).eval()
        self._classifier = [classifier]  # in a list, so that its networks are not part of the graph

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of grey levels ``(B, 1, H, W)`` uint8, with normalisation and test-time augmentation."""
        classifier = self._classifier[0]
        views = VIEWS[classifier.options.tta](image.float())
        return mean_of_views([self.network(classifier.prepare(view)) for view in views])


def export_graph(classifier: Classifier) -> tuple[bytes, int]:
    """Return the serialized graph and its IR version.

    Args:
        classifier: In evaluation mode, on the CPU.

    Raises:
        BundleError: ONNX has no operator for a part of the network; or the packages of the export are not installed.
    """
    try:
        import onnx
        import onnxscript as onnxscript
    except ImportError as error:
        raise BundleError(f"The export needs onnx and onnxscript ({error}). pip install 'pneumonia[export]'") from error
    size = classifier.options.image_size
    sample = torch.zeros((2, 1, size, size), dtype=torch.uint8)
    any_batch = ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},)
    family = type(classifier).__name__
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its advice is for developers of the exporter
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            program = torch.onnx.export(
                Deployed(classifier).eval(),
                (sample,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=any_batch,
                verbose=False,
            )
    except Exception as error:
        raise BundleError(
            f"{family} ({_options(classifier)}) can't be written as an ONNX graph: {_reason(error)}. Nothing was exported. "
            "Export a run with another model, activation or tta."
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None  # it is None only where a file is named
    model = program.model_proto
    if [entry.version for entry in model.opset_import if not entry.domain] != [OPSET] or len(model.opset_import) != 1:
        found = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
        raise BundleError(
            f"{family} was written with operators outside ONNX opset {OPSET} ({found}), which no server would load. Nothing was "
            "exported. Export a run with another model or activation."
        )
    _strip(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True), int(model.ir_version)


def _strip(model: Any) -> None:
    """Remove metadata that names the machine and its paths, or changes from one export to the next."""
    model.producer_name, model.producer_version = "pneumonia", ""
    model.doc_string, model.domain = "", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.name, model.graph.doc_string = "classifier", ""
    del model.graph.value_info[:]
    for entry in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.doc_string = ""
        del entry.metadata_props[:]


def _options(classifier: Classifier) -> str:
    options = {key: value for key, value in classifier.hparams.items() if key not in {"_target_", "options"}}
    return ", ".join(f"{key}={value}" for key, value in {**options, "tta": classifier.options.tta}.items())


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:300]}"
