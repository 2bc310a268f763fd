"""Builds what users bring: archives, DICOM files, MedMNIST arrays and Parquet shards, small and real."""

import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning import Trainer
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pneumonia.data.datamodule import XRayDataModule
from pneumonia.data.decoded_images import DecodedImages
from pneumonia.models.base import Classifier
from pneumonia.system.console import quiet
from pneumonia.tasks import TASKS
from pneumonia.training.throughput import Throughput


class Killed(Exception):
    """Stands for a process that ends without a word."""


@contextmanager
def killed_in(epoch: int, batch: int = 0) -> Iterator[None]:
    """Kill the training of the block after a batch of an epoch, both counted from 0."""
    plain = Throughput.on_train_batch_end

    def die(self: Throughput, trainer: Trainer, module: Classifier, outputs: object, data: object, index: int) -> None:
        plain(self, trainer, module, outputs, data, index)
        if trainer.current_epoch == epoch and index == batch:
            raise Killed

    with patch.object(Throughput, "on_train_batch_end", die), pytest.raises(Killed):
        yield


def quick_fit(classifier: Classifier, data: XRayDataModule, epochs: int, **words: object) -> Trainer:
    """Lightning's own loop without any of our callbacks, on the CPU."""
    quiet()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **{"limit_val_batches": 0, "logger": False, "enable_checkpointing": False, **words},
    )
    trainer.fit(classifier, data)
    return trainer


def few_images(pixels: np.ndarray, labels: list[str], task: str = "pneumonia", **words: object) -> XRayDataModule:
    """A data module of these images ``(N, H, W)`` uint8, all in the training split and all in val."""
    twice = np.concatenate([pixels, pixels])
    count = len(pixels)
    manifest = pd.DataFrame({"image_id": [f"i{n}" for n in range(2 * count)], "label": labels + labels})
    manifest["patient_id"] = manifest["image_id"]
    subset = ["train"] * count + ["val"] * count
    split = pd.DataFrame({"image_id": manifest["image_id"], "subset": subset, "fold": -1})
    images = DecodedImages(manifest, twice, np.arange(2 * count), {})
    return XRayDataModule.from_images(images, split, TASKS[task], **{"batch_size": count, **words})


def tree(root: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def png(seed: int, side: int = 32) -> bytes:
    """A picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
    return cv2.imencode(".png", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def make_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, content in files.items():
            add_to_tar(file, name, content)
    return path


def add_to_tar(file: tarfile.TarFile, name: str, content: bytes = b"", **values: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in values.items():
        setattr(member, key, value)
    file.addfile(member, io.BytesIO(content))


def dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """A DICOM file of grey pixels; ``tags`` override, ``None`` deletes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = 12 if pixels.dtype == np.uint16 else data.BitsAllocated
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PatientID, data.PatientName = "4711", "Kim^Ann"
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)
    if "HighBit" not in tags and "BitsStored" in data:
        data.HighBit = data.BitsStored - 1
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are wrong on purpose
        data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def medmnist(path: Path, side: int = 28, counts: dict[str, int] | None = None, **arrays: object) -> Path:
    """A PneumoniaMNIST file of random pixels; ``arrays`` override or add, ``None`` deletes."""
    rng = np.random.default_rng(side)
    held: dict[str, object] = {}
    for subset, count in ({"train": 12, "val": 4, "test": 6} if counts is None else counts).items():
        held[f"{subset}_images"] = rng.integers(0, 256, (count, side, side), dtype=np.uint8)
        held[f"{subset}_labels"] = (np.arange(count) % 3 > 0).astype(np.uint8)[:, None]
    held |= arrays
    np.savez_compressed(path, **{name: value for name, value in held.items() if value is not None})
    return path


def shard(path: Path, rows: list[tuple[bytes | None, str | None, object]], names: list[str] | None = None) -> Path:
    """A Parquet file as the datasets library writes it: images (bytes, path) and labels."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = pa.int64() if all(isinstance(row[2], int) for row in rows) else pa.string()
    table = pa.table(
        {
            "image": pa.array([{"bytes": raw, "path": name} for raw, name, _ in rows], image),
            "label": pa.array([row[2] for row in rows], label),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"} if names else {}}
    described = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": described}), path)
    return path
