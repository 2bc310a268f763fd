"""Parse and build the messages of the Open Inference Protocol (V2): encoded files or grey levels in, named tensors out."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pneumonia.export.contract import Contract
from pneumonia.export.prediction import Prediction
from pneumonia.serving.limits import Limits
from pneumonia.serving.problem import Problem
from pneumonia.serving.request_parsing import ParsedRequest, check_count, check_files, check_pixels, from_base64, load_json

INPUT: Final = "images"
WHITE: Final = 255
MAX_ID: Final = 1000  # characters of a request's id, which the response repeats
PLATFORM: Final = "onnx_onnxv1"
BINARY: Final = "The binary tensor data extension is not supported."
NOT_BINARY: Final = "Send the tensors as JSON, for example with binary_data=False."
SEND_REQUEST: Final = (
    f'Send {{"inputs": [{{"name": "{INPUT}", "datatype": "BYTES", "shape": [1], "data": ["BASE64 OF A FILE"]}}]}}; GET '
    "/v2/models/NAME describes the tensors."
)
Scalar = float | bool | str  # a value of an output, in JSON


class Message(BaseModel):
    """A part of a request. Keys that the protocol does not define belong to extensions, and are ignored."""

    model_config = ConfigDict(strict=True)


class RequestInput(Message):
    """An input tensor; ``data`` is flat or nested, in row-major order."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class RequestOutput(Message):
    """An output tensor to return."""

    name: str
    parameters: dict[str, Any] = {}


class InferenceRequest(Message):
    """The body of ``infer``."""

    id: str | None = Field(default=None, max_length=MAX_ID)
    parameters: dict[str, Any] = {}
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class TensorMetadata(BaseModel):
    """Name, datatype and shape of a tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str] | None = None


class ModelMetadata(BaseModel):
    """What a model takes and returns."""

    name: str
    versions: list[str]
    platform: Literal["onnx_onnxv1"] = PLATFORM
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ResponseOutput(BaseModel):
    """An output tensor; ``data`` is flat, in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Scalar]


class InferenceResponse(BaseModel):
    """The response of ``infer``."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str]
    outputs: list[ResponseOutput]


@dataclass(frozen=True)
class InferenceCall(ParsedRequest):
    """A parsed request: its images, its ``id``, and the names of the outputs to return."""

    id: str | None
    outputs: list[str]


def model_metadata(contract: Contract) -> ModelMetadata:
    """Describe the model of a bundle."""
    size, classes = contract.preprocessing.size, len(contract.classes)
    also = f"UINT8 or FP32 [-1,1,{size},{size}]: grey levels 0 to {WHITE}, as the bundle decodes them"
    described = {"content_type": "base64", "content": "one JPEG, PNG or DICOM file an element", "also": also}
    return ModelMetadata(
        name=contract.model.name,
        versions=[contract.model.run_id],
        inputs=[TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1], parameters=described)],
        outputs=[TensorMetadata(name=name, datatype=kind, shape=shape) for name, (kind, shape) in _outputs(classes).items()],
    )


def _outputs(classes: int) -> dict[str, tuple[str, list[int]]]:
    """Return datatype and shape of each output."""
    return {
        "probabilities": ("FP32", [-1, classes]),
        "raw": ("FP32", [-1, classes]),
        "classes": ("BYTES", [classes]),
        "label": ("BYTES", [-1]),
        "confidence": ("FP32", [-1]),
        "abstained": ("BOOL", [-1]),
        "out_of_distribution": ("BOOL", [-1]),
        "ood_score": ("FP32", [-1]),
    }


def parse_inference(body: bytes, contract: Contract, limits: Limits) -> InferenceCall:
    """Parse the body of ``infer``; decode no image file.

    Raises:
        Problem: 400 where the request is not of the protocol or names other tensors; else as for the other routes.
    """
    try:
        request = InferenceRequest.model_validate(load_json(body, SEND_REQUEST, SEND_REQUEST))
    except ValidationError as error:
        raise _invalid(error) from None
    known = _outputs(len(contract.classes))
    outputs = list(known) if not request.outputs else [output.name for output in request.outputs]
    unknown = next((name for name in outputs if name not in known), None)
    if unknown is not None:
        raise Problem(400, f"There is no output {unknown[:50]!r}.", f"The outputs are {', '.join(known)}.")
    if [one.name for one in request.inputs] != [INPUT]:
        found = ", ".join(repr(one.name[:50]) for one in request.inputs[:5]) or "none"
        raise Problem(400, f"The request has the inputs {found}; the model takes one, {INPUT!r}.", SEND_REQUEST)
    tensor = request.inputs[0]
    if tensor.datatype == "BYTES":
        files = _files(tensor, limits)
        return InferenceCall(files, check_files(files, limits), True, request.id, outputs)
    squares = _squares(tensor, contract.preprocessing.size, limits)
    return InferenceCall(squares, [square.size for square in squares], True, request.id, outputs)


def infer_response(call: InferenceCall, contract: Contract, predictions: Sequence[Prediction]) -> InferenceResponse:
    """Build the response from the predictions of a call; without a label, ``label`` is the empty string."""
    values: dict[str, list[Scalar]] = {
        "probabilities": [value for one in predictions for value in one.probabilities.values()],
        "raw": [value for one in predictions for value in one.raw.values()],
        "classes": list(contract.classes),
        "label": [one.label or "" for one in predictions],
        "confidence": [one.confidence for one in predictions],
        "abstained": [one.abstained for one in predictions],
        "out_of_distribution": [one.out_of_distribution for one in predictions],
        "ood_score": [one.ood_score for one in predictions],
    }
    known = _outputs(len(contract.classes))
    return InferenceResponse(
        model_name=contract.model.name,
        model_version=contract.model.run_id,
        id=call.id,
        parameters={"bundle_version": contract.bundle_version},
        outputs=[
            ResponseOutput(
                name=name,
                datatype=known[name][0],
                shape=[len(predictions) if side == -1 else side for side in known[name][1]],
                data=values[name],
            )
            for name in call.outputs
        ],
    )


def _files(tensor: RequestInput, limits: Limits) -> list[bytes]:
    """Return the files of a tensor ``[B]`` or ``[B, 1]`` of base64."""
    if not 1 <= len(tensor.shape) <= 2 or tensor.shape[1:] not in ([], [1]) or tensor.shape[0] < 1:
        raise Problem(
            400,
            f"{INPUT!r} of datatype BYTES has shape {_shown(tensor.shape)}; [B] or [B,1] with B of 1 or more is expected.",
            SEND_REQUEST,
        )
    texts = [one for row in tensor.data for one in (row if isinstance(row, list) else [row])]
    check_count(max(tensor.shape[0], len(texts)), limits)
    _check_length(len(texts), tensor)
    return [from_base64(text, f"images[{number}]", SEND_REQUEST) for number, text in enumerate(texts)]


def _squares(tensor: RequestInput, size: int, limits: Limits) -> list[NDArray[np.uint8]]:
    """Return the grey squares of a tensor ``[B, 1, size, size]``."""
    expected = f"UINT8 or FP32 [B,1,{size},{size}], or BYTES [B] with image files in base64"
    if tensor.datatype not in {"UINT8", "FP32"}:
        raise Problem(400, f"{INPUT!r} has datatype {tensor.datatype[:20]!r}, which is not supported.", f"Send {expected}.")
    if len(tensor.shape) != 4 or tensor.shape[1:] != [1, size, size] or tensor.shape[0] < 1:
        reason = (
            f"{INPUT!r} has datatype {tensor.datatype} and shape {_shown(tensor.shape)}; the model takes [B,1,{size},{size}]."
        )
        raise Problem(400, reason, f"Send {expected}; files are decoded and resized by the service.")
    check_count(tensor.shape[0], limits)
    check_pixels(math.prod(tensor.shape), limits)
    values = _numbers(tensor, expected)
    if not ((values >= 0) & (values <= WHITE) & (values == np.rint(values))).all():  # false for NaN
        raise Problem(
            400,
            f"The data of {INPUT!r} are not whole grey levels from 0 to {WHITE}.",
            "Send grey levels as an 8-bit image has them; normalisation is part of the model.",
        )
    return list(values.astype(np.uint8).reshape(-1, size, size))


def _numbers(tensor: RequestInput, expected: str) -> NDArray[np.float64]:
    """Return the data of a tensor, flat; they are flat already, or nested as the shape says."""
    remedy = f"Send {expected}; data are flat, or nested in row-major order."
    level = tensor.data
    if level and isinstance(level[0], list):
        for side in tensor.shape[1:]:
            if not all(isinstance(row, list) and len(row) == side for row in level):
                raise Problem(400, f"The data of {INPUT!r} are not nested as the shape {_shown(tensor.shape)} says.", remedy)
            level = list(chain.from_iterable(level))
    _check_length(len(level), tensor)
    try:
        return np.frombuffer(array("d", level))  # unlike numpy, an array converts no string, whose length would set its size
    except (TypeError, OverflowError):
        raise Problem(400, f"The data of {INPUT!r} are not all numbers.", remedy) from None


def _check_length(found: int, tensor: RequestInput) -> None:
    if found == math.prod(tensor.shape):
        return
    if "binary_data_size" in tensor.parameters:
        raise Problem(400, BINARY, NOT_BINARY)
    raise Problem(
        400,
        f"The data of {INPUT!r} have {found:,} elements; its shape {_shown(tensor.shape)} has {math.prod(tensor.shape):,}.",
        "Send as many elements as the shape says.",
    )


def _invalid(error: ValidationError) -> Problem:
    """Return the problem of a body that is not of the protocol; it quotes no value, which may be an image."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the body"
    if problem["type"] == "missing" and place.endswith("data"):
        return Problem(400, f"{place} is missing. {BINARY}", NOT_BINARY)
    return Problem(400, f"Not an inference request: {place[:100]}: {problem['msg'][:200]}.", SEND_REQUEST)


def _shown(shape: Sequence[int]) -> str:
    """Return a shape for a message; a caller may send one of any length."""
    return f"[{','.join(str(side)[:20] for side in shape[:6])}{',...' if len(shape) > 6 else ''}]"
