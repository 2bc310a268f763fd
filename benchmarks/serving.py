"""Row 8: bytes of image files to probabilities on one thread, one at a time.

- ours: the prediction of a bundle, with its checks, its out-of-distribution detector and its calibration.
- baseline: PIL to RGB, torchvision's Resize, Grayscale and ToTensor, and the trained network in eager mode.
- limit: a scaled decode and ONNX Runtime alone.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.harness import Arm, Differs, Goal, Row, unheard
from benchmarks.ingest import files_of
from benchmarks.world import SIDE, World
from pneumonia.config.compose import compose
from pneumonia.export.export import ExportOptions, export
from pneumonia.export.runtime import Bundle
from pneumonia.runs.load import load_finished_run
from pneumonia.training.train import train

IMAGES: Final = 64
CLOSE: Final = 0.05  # of probabilities, on average: two decoders and two ways to resize


def rows(world: World) -> list[Row]:
    """Return the arms over a sample of the files at full size, with a network trained for one epoch."""
    run, folder = trained(world)
    bundle = Bundle.load(folder)
    files = files_of(world.full_size)
    raw = [path.read_bytes() for path in files[:: max(1, len(files) // IMAGES)]][:IMAGES]
    ways = {"ours": lambda data: list(bundle.predict(data).raw.values()), "baseline": eager(run), "limit": bare(folder)}

    def all_of(way: Callable[[bytes], object]) -> None:
        with one_thread():
            for data in raw:
                way(data)

    def guard() -> str:
        ours, theirs = (np.array([ways[name](data) for data in raw]) for name in ("ours", "baseline"))
        error = float(np.abs(ours - theirs).mean())
        if error > CLOSE:
            raise Differs(f"probabilities differ by {error:.3f} on average")
        return f"probabilities differ by {error:.4f} on average, by decoder and resize alone"

    found = Row(
        key="serving",
        what=f"{len(raw)} JPEG files at full size to probabilities on one thread",
        items=len(raw),
        unit="images",
        arms={name: Arm(lambda way=way: all_of(way)) for name, way in ways.items()},  # type: ignore[misc]
        goals=(Goal("baseline", "faster", 2.5), Goal("limit", "faster", 0.75)),
        guard=guard,
        rounds=world.rounds,
    )
    return [found]


def trained(world: World) -> tuple[Path, Path]:
    """A run of the study's network, and its bundle."""
    few = {"max_epochs": "1", "name": "serving"}
    with unheard():
        result = train(compose(*(f"{key}={value}" for key, value in (world.words | few).items()), "split=random"))
        run = world.scratch / "runs" / "serving" / result.run_id
        export(ExportOptions(run, world.scratch / "bundle", cache_dir=world.cache_dir))
    return run, world.scratch / "bundle"


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and OpenCV with one thread; ONNX Runtime has one anyway."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def eager(run: Path) -> Callable[[bytes], list[float]]:
    """Predict as usual scripts do."""
    classifier = load_finished_run(run).load_model()
    scaling = classifier.options.fitted
    mean, std = scaling.shift / 255, scaling.scale / 255
    prepare = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.Grayscale(),
            transforms.ToTensor(),
            transforms.Normalize((mean,), (std,)),
        ]
    )
    network = classifier.evaluated_network().eval()

    def predict(data: bytes) -> list[float]:
        with torch.inference_mode(), Image.open(io.BytesIO(data)) as image:
            found: list[float] = network(prepare(image.convert("RGB"))[None]).softmax(dim=1)[0].tolist()
            return found

    return predict


def bare(folder: Path) -> Callable[[bytes], object]:
    """Decode at the needed scale and run the graph; check nothing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    kind = np.uint8 if "uint8" in given.type else np.float32

    def predict(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        image.draft("L", (2 * SIDE, 2 * SIDE))
        square = cv2.resize(np.asarray(image.convert("L")), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return session.run(None, {given.name: square[None, None].astype(kind)})

    return predict
