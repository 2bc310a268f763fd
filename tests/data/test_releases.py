from collections import Counter
from pathlib import Path

import pytest

from pneumonia.data.releases import check_classes, find
from pneumonia.errors import LabelError, LayoutError

KAGGLE = {
    "train/NORMAL/IM-0115-0001.jpeg": ("NORMAL", "IM-115"),
    "train/NORMAL/NORMAL2-IM-0374-0001-0002.jpeg": ("NORMAL", "NORMAL2-IM-374"),
    "train/PNEUMONIA/person90_virus_169.jpeg": ("VIRUS", "VIRUS-90"),
    "train/PNEUMONIA/person90_bacteria_442.jpeg": ("BACTERIA", "BACTERIA-90"),
    "train/PNEUMONIA/person447_virus_921_1.jpeg": ("VIRUS", "VIRUS-447"),
    "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("NORMAL", "NORMAL2-IM-1427"),
    "test/PNEUMONIA/person100_bacteria_475.jpeg": ("BACTERIA", "BACTERIA-100"),
}


def _tree(root: Path, names) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


@pytest.mark.parametrize("above", ["", "chest_xray", "a/chest_xray"])
def test_the_kaggle_layout_is_read_however_deep_it_is_nested(above, tmp_path):
    _tree(tmp_path / above, KAGGLE)
    _tree(
        tmp_path / above, [".DS_Store", "train/.DS_Store", "train/NORMAL/.DS_Store", "train/NORMAL/._IM-0115-0001.jpeg"]
    )
    _tree(tmp_path / "__MACOSX", ["train/NORMAL/._IM-0001-0001.jpeg"])
    found = {f"{item.source_split}/{item.path.parent.name}/{item.path.name}": item for item in find(tmp_path)}
    assert {name: (item.label, item.patient_id) for name, item in found.items()} == KAGGLE


def test_the_release_nested_twice_is_not_read_twice(tmp_path):
    _tree(tmp_path / "chest_xray", KAGGLE)
    _tree(tmp_path / "chest_xray" / "chest_xray", KAGGLE)
    assert len(find(tmp_path)) == len(KAGGLE)


def test_a_bacterial_and_a_viral_patient_of_one_number_are_two_children(tmp_path):
    found = find(_tree(tmp_path, KAGGLE))
    assert len({item.patient_id for item in found if "person90_" in item.path.name}) == 2


def test_bare_class_folders_have_no_source_split(tmp_path):
    found = find(_tree(tmp_path, ["NORMAL/IM-0001-0001.jpeg", "PNEUMONIA/person1_virus_1.jpeg"]))
    assert {item.source_split for item in found} == {""}


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], LayoutError, "it is empty"),
        (
            ["a.jpeg", "b.jpeg"],
            LayoutError,
            r"no layout that we know.*a.jpeg, b.jpeg.*the folder names carry the labels",
        ),
        (["train/NORMAL/.DS_Store"], LayoutError, "no image in them"),
        (["train/NORMAL/scan.jpeg"], LabelError, r"1 files.*NORMAL/scan.jpeg.*without patients"),
        (["train/PNEUMONIA/person1_fungus_3.jpeg"], LabelError, "person1_fungus_3"),
        (["train/NORMAL/person1_virus_3.jpeg"], LabelError, "contradicts"),
        (["train/NORMAL/notes.txt"], LabelError, "notes.txt"),
        (["train/NORMAL/IM-0001-0001.jpeg", "test/NORMAL/IM-0001-0001.jpeg"], LabelError, "more than one place"),
    ],
)
def test_a_folder_that_is_not_understood_is_refused(names, error, message, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(error, match=message):
        find(_tree(root, names))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(LayoutError, match=r"nowhere does not exist"):
        find(tmp_path / "nowhere")


def test_a_class_without_images_is_refused():
    with pytest.raises(LabelError, match=r"no image of class VIRUS \(NORMAL 3, VIRUS 0, BACTERIA 2\)"):
        check_classes(Counter({"NORMAL": 3, "BACTERIA": 2}), ("NORMAL", "VIRUS", "BACTERIA"), "The data")
