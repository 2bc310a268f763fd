import io

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pneumonia.data.duplicates import NEAR_BITS, groups, near_pairs, perceptual_hash
from pneumonia.data.images.decode import read_image


def _saved_again(grey: np.ndarray, quality: int = 75) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "JPEG", quality=quality)
    return read_image(out.getvalue())[1].pixels


@pytest.fixture(scope="module")
def films(phantoms) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("L")) for path in sorted(phantoms.rglob("*.jpeg"))[:40]]


def _bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_film_saved_again_shrunk_or_brightened_is_near_itself(films):
    for grey in films:
        own = perceptual_hash(grey)
        shrunk = cv2.resize(grey, (112, 112), interpolation=cv2.INTER_AREA)
        brighter = np.clip(grey * 1.15 + 5, 0, 255).astype(np.uint8)
        for other in (_saved_again(grey, 20), _saved_again(shrunk), _saved_again(brighter)):
            assert _bits(own, perceptual_hash(other)) <= NEAR_BITS


def test_hash_measures_what_imagehash_measures(films):
    ours = [perceptual_hash(grey) for grey in films]
    theirs = [imagehash.phash(Image.fromarray(grey), hash_size=16, highfreq_factor=4) for grey in films]
    pairs = [(a, b) for a in range(len(films)) for b in range(a)]
    distances = np.array([[_bits(ours[a], ours[b]), theirs[a] - theirs[b]] for a, b in pairs])
    assert np.corrcoef(distances.T)[0, 1] > 0.9
    assert np.abs(distances[:, 0] - distances[:, 1]).mean() < 8


def test_pairs_match_brute_force_across_block_borders(monkeypatch):
    monkeypatch.setattr("pneumonia.data.duplicates.BLOCK", 16)
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (70, 32)).astype(np.uint8)
    for one, other in ((3, 60), (15, 16), (33, 34), (2, 5)):
        raw[other] = raw[one]
        raw[other, 0] ^= 7
    hashes = pd.Series([bytes(row).hex() for row in raw])
    hashes[10] = hashes[40] = ""  # unreadable images match nothing
    found = {(int(a), int(b), int(bits)) for a, b, bits in near_pairs(hashes).itertuples(index=False)}
    wanted = {
        (a, b, _bits(hashes[a], hashes[b]))
        for a in range(70)
        for b in range(a + 1, 70)
        if hashes[a] and hashes[b] and _bits(hashes[a], hashes[b]) <= NEAR_BITS
    }
    assert found == wanted
    assert len(found) == 4


def test_near_copies_join_patients_and_broken_images_do_not():
    near = "f" * 64
    manifest = pd.DataFrame(
        {
            "patient_id": ["a", "b", "c", "d"],
            "sha256": ["1", "2", "3", "4"],
            "phash": [near, near[:-1] + "e", "", ""],
        }
    )
    found = groups(manifest)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_manifest_without_any_readable_image_has_no_pairs():
    assert len(near_pairs(pd.Series(["", ""]))) == 0
