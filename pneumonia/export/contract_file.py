"""Read and write ``contract.json``; refuse a contract that was changed, damaged, or made by another version."""

import json
from errno import EFBIG, EINVAL, ENOENT
from os import strerror
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from pneumonia.data.images.decode import DECODER
from pneumonia.errors import BundleError, ParityError, TamperedBundleError
from pneumonia.export.contract import CONTRACT, OPSET, SCHEMA_VERSION, Contract, digest_of

MAX_BYTES: Final = 2**20  # of contract.json; usual ones have 4,000
MAX_SHOWN: Final = 80  # characters of a wrong value
AGAIN: Final = "Export the run again."


def contract_text(contract: Contract) -> str:
    """Return the content of ``contract.json``."""
    return json.dumps(contract.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def read_contract(folder: Path) -> Contract:
    """Read and check the contract of a bundle.

    Raises:
        TamperedBundleError: The contract was edited or damaged.
        ParityError: The bundle differs from the trained model.
        BundleError: There is none, it has another version, or a field is out of range.
    """
    path = folder / CONTRACT
    if folder.is_file():
        raise BundleError(f"{folder} is a file; a bundle is a folder. Name the folder of `pneumonia export`.")
    if not folder.is_dir():
        raise BundleError(f"There is no bundle {folder}. `pneumonia export RUN --out BUNDLE` creates one.")
    if not path.exists():
        raise BundleError(f"{folder} is not a bundle: it has no {CONTRACT}. Name the folder of `pneumonia export`.")
    plain, is_intact = _read_json(path)
    version = plain.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(f"{path} has schema_version {version!r:.40}; this version reads {SCHEMA_VERSION}. {AGAIN}")
    if not is_intact:
        raise TamperedBundleError(
            f"{path} was changed after the export: its digest does not match its content, so it can't be trusted. "
            "Copy the bundle from its source again, or export the run again."
        )
    try:
        contract = Contract.model_validate(plain)
    except ValidationError as error:
        raise BundleError(f"{path}: {first_problem(error)}. Predictions could not be trusted. {AGAIN}") from error
    _check_compatible(contract, path)
    return contract


def first_problem(error: ValidationError) -> str:
    """Describe the first wrong field of a contract, with its value."""
    problem = error.errors(include_url=False)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    value = problem["input"]
    shown = "" if isinstance(value, dict | Contract) else f"={_shorten(json.dumps(value))}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{_shorten(name.removeprefix('.')) or 'the contract'}{shown}: {message[0].lower()}{message[1:]}"


def read_regular(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file of a bundle.

    Raises:
        TamperedBundleError: It is missing, too large, or no regular file (a pipe may never end).
    """
    try:
        if not path.is_file():
            missing = FileNotFoundError(ENOENT, strerror(ENOENT))
            raise missing if not path.exists() else OSError(EINVAL, "it is no regular file")
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise OSError(EFBIG, f"it has {size:,} bytes; the limit is {max_bytes:,}")
        return path.read_bytes()
    except OSError as error:
        raise TamperedBundleError(f"{path} can't be read ({error.strerror}). {AGAIN}") from error


def _read_json(path: Path) -> tuple[dict[str, object], bool]:
    """Return the object in a file, and whether it has the digest that it states."""
    try:
        plain = json.loads(read_regular(path, MAX_BYTES).decode("utf-8"), object_pairs_hook=_unique_keys)
        if not isinstance(plain, dict):
            raise TypeError("it is not an object")
        return plain, plain.get("digest") == digest_of(plain)
    except (ValueError, TypeError, RecursionError) as error:
        raise TamperedBundleError(f"{path} is damaged ({type(error).__name__}: {error}). {AGAIN}") from error


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r:.80} occurs twice")
        found[key] = value
    return found


def _check_compatible(contract: Contract, path: Path) -> None:
    """Refuse a bundle that this program would not run as it was exported."""
    parity, opset, decoder = contract.parity, contract.onnx.opset, contract.preprocessing.decoder
    if not parity.passed:
        raise ParityError(
            f"{path}: the exported model differs from the trained one by {parity.max_difference:.2g} (tolerance "
            f"{parity.tolerance:g}) and changes the label of {parity.changed_labels} images. {AGAIN}"
        )
    if opset != OPSET:
        raise BundleError(f"{path}: the graph has ONNX opset {opset}; this version runs opset {OPSET}. {AGAIN}")
    if decoder != DECODER:
        raise BundleError(
            f"{path}: the bundle was exported with image decoder {decoder}; this version has {DECODER}, which would give "
            f"other pixels. {AGAIN}"
        )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
