"""Find copies of an X-ray, and join them with their patients into groups that no split may divide."""

from typing import Final

import cv2
import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumonia.system.arrays import Ints, Pixels

SIDE: Final = 64  # pixels a side of the transformed image
KEPT: Final = 16  # lowest frequencies a side: 256 bits
NEAR_BITS: Final = 24
"""Bits of 256 in which two files of one X-ray may differ.

Measured on the 120 originals at full size and 5,232 X-rays at 224 px: saved again at JPEG quality 20, shrunk to 28 px,
stretched, brightened by a fifth or with another gamma, an image moves by 24 bits at most; two different X-rays of the
release are 40 bits apart or more. Cut margins and rotations can go unseen.
"""
BLOCK: Final = 1024  # rows compared at once: 4 MiB


def perceptual_hash(grey: Pixels) -> str:
    """Return 256 bits of the coarse structure of an image ``(H, W)``, as 64 hexadecimal digits.

    Each bit is set if one of the 16 x 16 lowest frequencies of the discrete cosine transform is above their median.

    Source: Zauner (2010), Implementation and benchmarking of perceptual image hash functions, section 3.2.1.
    """
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:KEPT, :KEPT].ravel()
    return np.packbits(low > np.median(low)).tobytes().hex()


def near_pairs(hashes: pd.Series, limit: int = NEAR_BITS) -> pd.DataFrame:
    """Return all pairs of images whose hashes differ in at most ``limit`` bits.

    Args:
        hashes: ``(N,)`` from :func:`perceptual_hash`; empty strings (unreadable images) match nothing.
        limit: Number of bits.

    Returns:
        One row a pair: ``first`` and ``second`` (positions, first < second) and ``bits``, nearest first.
    """
    rows = np.flatnonzero((hashes != "").to_numpy())
    raw = np.frombuffer(bytes.fromhex("".join(hashes.iloc[rows])), dtype=np.uint8).reshape(len(rows), KEPT * KEPT // 8)
    signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1  # the dot product counts equal minus unequal bits
    found = []
    for start in range(0, len(rows), BLOCK):
        for other in range(start, len(rows), BLOCK):
            alike = signs[start : start + BLOCK] @ signs[other : other + BLOCK].T
            first, second = np.nonzero(alike >= signs.shape[1] - 2 * limit)
            bits = (signs.shape[1] - alike[first, second]) / 2
            found.append(np.stack([first + start, second + other, bits], axis=1).astype(np.int64))
    pairs = np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    table = pd.DataFrame({"first": rows[pairs[:, 0]], "second": rows[pairs[:, 1]], "bits": pairs[:, 2]})
    return table.sort_values(["bits", "first", "second"], ignore_index=True)


def groups(manifest: pd.DataFrame) -> Ints:
    """Return a number for each image, ``(N,)``, equal for images that must stay together in a split.

    Images of one ``patient_id``, of equal ``sha256`` and of nearly equal ``phash`` are joined, transitively.
    """
    patients, copies = (pd.factorize(manifest[name])[0] for name in ("patient_id", "sha256"))
    near = near_pairs(manifest["phash"].reset_index(drop=True))
    size = len(manifest)
    images = np.arange(size)
    # Nodes: images, then patients, then contents; every image is tied to its patient, its content and its near copies.
    first = np.concatenate([images, images, near["first"].to_numpy()])
    second = np.concatenate([size + patients, 2 * size + copies, near["second"].to_numpy()])
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(3 * size, 3 * size))
    return np.asarray(connected_components(graph, directed=False)[1][:size], dtype=np.int64)
