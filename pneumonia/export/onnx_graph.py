"""A trained classifier as an ONNX graph, from grey levels to logits, in bytes that depend on its weights alone."""

import copy
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia.errors import BundleError
from pneumonia.export.contract import OPSET
from pneumonia.models.base import Classifier
from pneumonia.models.components.test_time_augmentation import VIEWS, mean_of_views

MOST = 1024  # images a batch; only a bound for the exporter's reasoning


class Deployed(nn.Module):
    """What :class:`pneumonia.models.base.Classifier` does in evaluation, without what it needs to train."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        network = copy.deepcopy(classifier.evaluated_network())
        self.network = network.to(memory_format=torch.contiguous_format).eval()
        self._classifier = [classifier]  # in a list, so that its own networks are no part of the graph

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, K)`` of grey levels ``(B, 1, H, W)`` uint8: normalisation and views are inside."""
        classifier = self._classifier[0]
        views = VIEWS[classifier.options.tta](image.float())
        return mean_of_views([self.network(classifier.prepare(view)) for view in views])


def export_graph(classifier: Classifier) -> tuple[bytes, int]:
    """The serialised graph, and the version of its format.

    Args:
        classifier: In evaluation mode, on the CPU.

    Raises:
        BundleError: Something in the network has no place in ONNX; or the packages for it are not installed.
    """
    try:
        import onnx
        import onnxscript as onnxscript
    except ImportError as error:
        raise BundleError(
            f"The exporter needs onnx and onnxscript ({error}). pip install 'pneumonia[export]'"
        ) from error
    size = classifier.options.image_size
    sample = torch.zeros((2, 1, size, size), dtype=torch.uint8)
    any_batch = ({0: torch.export.Dim("batch", min=1, max=MOST)},)
    family = type(classifier).__name__
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # advice on its own inner steps
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
        views = classifier.options.tta
        raise BundleError(
            f"{family} ({_words(classifier)}, tta={views}) can't be written as an ONNX graph: {_reason(error)}. Nothing was "
            "exported. Export a run with another model, activation or tta."
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None  # it is only where a file is named
    model = program.model_proto
    if [entry.version for entry in model.opset_import if not entry.domain] != [OPSET] or len(model.opset_import) != 1:
        found = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
        raise BundleError(
            f"{family} was written with other operators than ONNX opset {OPSET} ({found}), which no server would load. Nothing "
            "was exported. Export a run with another model or activation."
        )
    _strip(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True), int(model.ir_version)


def _strip(model: Any) -> None:
    """Takes out what tells of the machine and its paths, and changes from one export to the next."""
    model.producer_name, model.producer_version = "pneumonia", ""
    model.doc_string, model.domain = "", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.name, model.graph.doc_string = "classifier", ""
    del model.graph.value_info[:]
    for entry in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.doc_string = ""
        del entry.metadata_props[:]


def _words(classifier: Classifier) -> str:
    return (
        ", ".join(f"{key}={value}" for key, value in classifier.model_config.items() if key != "_target_") or "no keys"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:300]}"
