"""Bytes of image files to probabilities on one thread: a bundle beside PIL, torchvision's transforms and eager torch.

    .venv/bin/python benchmarks/serving.py RUN BUNDLE IMAGES_DIR [--images 64] [--rounds 7] [--json]

Both take the same files in turns, round by round in one process; the figure is the median over the rounds, in seconds of the
processor, which are those of the clock where nothing else runs. The second way is what
most tutorials serve: PIL to RGB, torchvision's Resize, Grayscale and ToTensor, and the trained network in eager mode.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import torch
from PIL import Image
from torchvision import transforms

from pneumonia.bundle.answers import Bundle
from pneumonia.models.build import load_classifier
from pneumonia.predict import image_files
from pneumonia.runs import open_run


def main() -> None:
    """Prints images a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = image_files([options.folder])
    raw = [path.read_bytes() for path in files[:: max(1, len(files) // options.images)]][: options.images]
    bundle = Bundle.load(options.bundle)
    ways = {"bundle": lambda data: bundle.answer(data), "eager": eager(options.run, bundle.contract.image.size)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        for data in raw[:4]:
            way(data)  # the first calls prepare memory and kernels
    for _ in range(options.rounds):
        for name, way in ways.items():
            start = time.process_time()
            for data in raw:
                way(data)
            took[name].append(time.process_time() - start)
    speed = {name: len(raw) / median(seconds) for name, seconds in took.items()}
    ratios = [other / own for own, other in zip(took["bundle"], took["eager"], strict=True)]
    figures = {
        "images": len(raw),
        "mean_kib": round(sum(map(len, raw)) / len(raw) / 1024, 1),
        "images_per_s": {name: round(value, 1) for name, value in speed.items()},
        "ratio": round(median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"{figures['images']} files of {figures['mean_kib']} KiB, one thread, medians of {options.rounds} rounds")
    print(f"bundle {speed['bundle']:.0f} images/s, PIL + torchvision + eager torch {speed['eager']:.0f} images/s")
    print(f"ratio {figures['ratio']} ({figures['ratio_range'][0]} to {figures['ratio_range'][1]} by round)")


def eager(run: Path, size: int) -> Callable[[bytes], list[float]]:
    """The usual way from bytes to probabilities."""
    folder, _, config = open_run(run)
    classifier = load_classifier(folder.best, config["task"])
    scaling = classifier.setup_values.scaling
    mean, std = float(scaling["shift"]) / 255, float(scaling["scale"]) / 255
    prepare = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.Grayscale(),
            transforms.ToTensor(),
            transforms.Normalize((mean,), (std,)),
        ]
    )
    network = classifier.evaluated_network().eval()

    def answer(data: bytes) -> list[float]:
        with torch.inference_mode(), Image.open(io.BytesIO(data)) as image:
            tensor = prepare(image.convert("RGB"))[None]
            return network(tensor).softmax(dim=1)[0].tolist()

    return answer


if __name__ == "__main__":
    main()
