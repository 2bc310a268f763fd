from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builders import dicom, make_tar, make_zip, medmnist, png, shard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.data.sources.file_names import UNKNOWN_PATIENT, read_name
from pneumonia.data.sources.releases import check_classes, find, recognise
from pneumonia.errors import ArchiveError, LabelError, LayoutError, PneumoniaError
from pneumonia.tasks import PNEUMONIA, SUBTYPE

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
def test_kaggle_layout_is_read_however_deep_it_is_nested(above, tmp_path):
    _tree(tmp_path / above, KAGGLE)
    _tree(tmp_path / above, [".DS_Store", "train/.DS_Store", "train/NORMAL/.DS_Store", "train/NORMAL/._IM-0115-0001.jpeg"])
    _tree(tmp_path / "__MACOSX", ["train/NORMAL/._IM-0001-0001.jpeg"])
    found = {f"{item.source_split}/{item.path.parent.name}/{item.path.name}": item for item in find(tmp_path)}
    assert {name: (item.label, item.patient_id) for name, item in found.items()} == KAGGLE


def test_release_nested_twice_is_not_read_twice(tmp_path):
    _tree(tmp_path / "chest_xray", KAGGLE)
    _tree(tmp_path / "chest_xray" / "chest_xray", KAGGLE)
    assert len(find(tmp_path)) == len(KAGGLE)


def test_bacterial_and_viral_patients_of_one_number_are_distinct(tmp_path):
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
            r"unknown layout.*a.jpeg, b.jpeg.*the folder names carry the labels",
        ),
        (["train/NORMAL/.DS_Store"], LayoutError, "no image in them"),
        (["train/NORMAL/scan.jpeg"], LabelError, r"1 files.*NORMAL/scan.jpeg.*without patients"),
        (["train/PNEUMONIA/person1_fungus_3.jpeg"], LabelError, "person1_fungus_3"),
        (["train/NORMAL/person1_virus_3.jpeg"], LabelError, "contradicts"),
        (["train/NORMAL/notes.txt"], LabelError, "notes.txt"),
        (["train/NORMAL/IM-0001-0001.jpeg", "test/NORMAL/IM-0001-0001.jpeg"], LabelError, "more than one place"),
    ],
)
def test_folder_that_is_not_understood_is_refused(names, error, message, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(error, match=message):
        find(_tree(root, names))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(LayoutError, match=r"nowhere does not exist"):
        find(tmp_path / "nowhere")


def test_class_without_images_is_refused():
    with pytest.raises(LabelError, match=r"no image of class VIRUS \(NORMAL 3, VIRUS 0, BACTERIA 2\)"):
        check_classes(Counter({"NORMAL": 3, "BACTERIA": 2}), ("NORMAL", "VIRUS", "BACTERIA"), "The data")


MENDELEY = {
    "train/NORMAL/NORMAL-28501-0001.jpeg": ("NORMAL", "NORMAL-28501"),
    "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg": ("BACTERIA", "BACTERIA-1008087"),
    "train/PNEUMONIA/BACTERIA-1008087-0002.jpeg": ("BACTERIA", "BACTERIA-1008087"),
    "train/PNEUMONIA/VIRUS-1008087-0001.jpeg": ("VIRUS", "VIRUS-1008087"),
    "test/PNEUMONIA/VIRUS-20000-0003.jpeg": ("VIRUS", "VIRUS-20000"),
}


def _described(images) -> dict[str, tuple[str, str, str]]:
    return {item.image_id: (item.label, item.patient_id, item.source_split) for item in images}


def test_mendeley_tree_is_recognised_by_its_names(tmp_path):
    release = recognise(_tree(tmp_path / "ChestXRay2017" / "chest_xray", MENDELEY).parent, tmp_path / "cache")
    assert release.kind == "Mendeley v3"
    wanted = {Path(name).stem: (*known, Path(name).parts[0]) for name, known in MENDELEY.items()}
    assert _described(release.images) == wanted
    assert "The release is in chest_xray." in release.notes


def test_kaggle_names_are_recognised_with_notes(tmp_path):
    _tree(tmp_path / "chest_xray", [*KAGGLE, "train/COVID/x.jpeg", ".DS_Store"])
    release = recognise(tmp_path, tmp_path / "cache")
    assert release.kind == "Kaggle"
    assert len(release.images) == len(KAGGLE)
    notes = " ".join(release.notes)
    assert "1 entry outside of all subset and class folders left out: train/COVID" in notes
    assert "1 hidden or system entry ignored" in notes
    assert "val has 1 image and none of class VIRUS, BACTERIA" in notes


def test_both_ways_of_naming_side_by_side_are_called_mixed(tmp_path):
    release = recognise(_tree(tmp_path, [*KAGGLE, *MENDELEY]), tmp_path / "cache")
    assert release.kind == "mixed"
    assert len(release.images) == len(KAGGLE) + len(MENDELEY)
    assert any("pneumonia data audit" in note for note in release.notes)


@pytest.mark.parametrize(
    ("layout", "subsets"),
    [
        ("{subset}/{name}", {"train", "val", "test"}),  # containers of blobs, without class folders
        ("{subset}/{kind}/{name}", {"train", "val", "test"}),  # a folder for each of the three classes
        ("{subset}/{binary}/{kind}/{name}", {"train", "val", "test"}),
        ("{binary}/{subset}/{name}", {"train", "val", "test"}),
        ("{name}", {""}),
        ("images/{name}", {""}),
    ],
)
@pytest.mark.parametrize("subset_names", [("train", "val", "test"), ("Train", "validation", "TEST"), ("train", "valid", "test")])
def test_every_folder_layout_gives_the_same_images(layout, subsets, subset_names, tmp_path):
    for number, name in enumerate(KAGGLE):
        kind = KAGGLE[name][0]
        place = layout.format(
            subset=subset_names[number % 3],
            kind=kind,
            binary="NORMAL" if kind == "NORMAL" else "PNEUMONIA",
            name=Path(name).name,
        )
        _tree(tmp_path, [place])
    found = find(tmp_path)
    assert {item.path.name: (item.label, item.patient_id) for item in found} == {
        Path(name).name: known for name, known in KAGGLE.items()
    }
    assert {item.source_split for item in found} == subsets


@pytest.mark.parametrize("name", ["train/BACTERIA/person1_virus_1.jpeg", "VIRUS/BACTERIA-10-0001.jpeg", "Normal/VIRUS-1-1.png"])
def test_class_folder_that_contradicts_the_name_is_refused(name, tmp_path):
    with pytest.raises(LabelError, match=f"contradicts their names, for example {name}"):
        find(_tree(tmp_path, [name, "NORMAL/IM-0001-0001.jpeg"]))


def test_flat_folder_with_one_strange_name_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r"1 files.*scan\.png.*--labels FILE\.csv"):
        find(_tree(tmp_path, ["IM-0001-0001.jpeg", "scan.png", "readme.txt"]))


@pytest.mark.parametrize(
    "names", [["train/IM-0001-0001.jpeg", "val/IM-0001-0001.jpeg"], ["IM-0001-0001.jpeg", "IM-0001-0001.png"]]
)
def test_two_files_of_one_id_are_refused(names, tmp_path):
    with pytest.raises(LabelError, match=r"1 image names occur in more than one place, for example IM-0001-0001"):
        find(_tree(tmp_path, names))


def test_folder_that_links_back_to_itself_is_walked_once(tmp_path):
    root = _tree(tmp_path / "root", KAGGLE)
    (root / "train" / "NORMAL" / "loop").symlink_to(root, target_is_directory=True)
    assert len(find(root)) == len(KAGGLE)


def test_broken_link_is_refused(tmp_path):
    root = _tree(tmp_path / "root", KAGGLE)
    (root / "train" / "NORMAL" / "more").symlink_to(tmp_path / "gone")
    with pytest.raises(LayoutError, match=r"1 entry of .*:\n  train/NORMAL/more: leads nowhere \(No such file or directory\)"):
        find(root)


def test_names_of_no_release_say_nothing():
    for name in (
        "person1_virus",
        "personx_virus_1",
        "IM-1",
        "VIRUS-1",
        "NORMAL-a-1",
        "xIM-0001-0001",
        "person1_virus_1 (1)",
        "",
    ):
        assert read_name(name) is None, name


@pytest.mark.parametrize("name", ["release.zip", "release.tar.gz"])
def test_archive_of_a_release_is_read_like_its_folder(name, tmp_path):
    files = {f"chest_xray/{path}": path.encode() for path in KAGGLE} | {"__MACOSX/chest_xray/train/._x": b""}
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, files)
    release = recognise(archive, tmp_path / "cache")
    assert release.kind == "Kaggle"
    assert _described(release.images) == _described(find(_tree(tmp_path / "plain", KAGGLE)))
    assert all(item.path.read_bytes().decode() in KAGGLE for item in release.images)
    assert release.notes[0].startswith(f"{name} was unpacked to {tmp_path / 'cache'}")


def test_archive_that_leads_elsewhere_is_refused_by_name(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"../NORMAL/IM-0001-0001.jpeg": b"x"})
    with pytest.raises(ArchiveError, match="leads out of the folder"):
        recognise(archive, tmp_path / "cache")


@pytest.mark.parametrize(("name", "message"), [("x.txt", "is a file that can't be read as data"), ("x.npz", "no .npz file")])
def test_file_that_is_no_data_is_refused(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises((LayoutError, ArchiveError), match=message):
        recognise(tmp_path / name, tmp_path / "cache")


def test_missing_medmnist_file_says_how_to_get_it(tmp_path):
    with pytest.raises(LayoutError, match=r"does not exist.*pneumonia data import --from medmnist"):
        recognise(tmp_path / "pneumoniamnist.npz", tmp_path / "cache")


def test_medmnist_file_has_subsets_and_no_patients(tmp_path):
    release = recognise(medmnist(tmp_path / "pneumoniamnist.npz"), tmp_path / "cache")
    assert release.kind == "MedMNIST"
    assert Counter((item.source_split, item.label) for item in release.images) == {
        ("train", "NORMAL"): 4,
        ("train", "PNEUMONIA"): 8,
        ("val", "NORMAL"): 2,
        ("val", "PNEUMONIA"): 2,
        ("test", "NORMAL"): 2,
        ("test", "PNEUMONIA"): 4,
    }
    assert {item.patient_id for item in release.images} == {UNKNOWN_PATIENT + item.image_id for item in release.images}
    notes = " ".join(release.notes)
    assert "No image names its patient" in notes
    assert "14 images are pneumonia of an unknown kind" in notes
    assert "MedMNIST took its val at random" in notes


def test_folder_or_archive_around_a_medmnist_file_is_read(tmp_path):
    (tmp_path / "folder").mkdir()
    path = medmnist(tmp_path / "folder" / "pneumoniamnist.npz")
    archive = make_zip(tmp_path / "x.zip", {"pneumoniamnist.npz": path.read_bytes()})
    alone = _described(recognise(path, tmp_path / "cache").images)
    assert _described(recognise(path.parent, tmp_path / "cache").images) == alone
    assert _described(recognise(archive, tmp_path / "cache").images) == alone


def test_parquet_shards_are_unpacked_with_release_names(tmp_path):
    files = {"IM-0001-0001.jpeg": 0, "person1_virus_1.jpeg": 1, "person1_bacteria_1.jpeg": 1}
    rows = [(png(number), name, label) for number, (name, label) in enumerate(files.items())]
    shard(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", rows[:2], ["NORMAL", "PNEUMONIA"])
    shard(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet", rows[2:], ["NORMAL", "PNEUMONIA"])
    shard(
        tmp_path / "hub" / "data" / "validation-00000-of-00001-ab12.parquet",
        [(png(9), "IM-0002-0001.jpeg", 0)],
        ["NORMAL"],
    )
    release = recognise(tmp_path / "hub", tmp_path / "cache")
    assert release.kind == "Kaggle"
    assert _described(release.images) == {
        "IM-0001-0001": ("NORMAL", "IM-1", "train"),
        "person1_virus_1": ("VIRUS", "VIRUS-1", "train"),
        "person1_bacteria_1": ("BACTERIA", "BACTERIA-1", "train"),
        "IM-0002-0001": ("NORMAL", "IM-2", "val"),
    }
    assert {item.path.read_bytes() for item in release.images} == {png(number) for number in (0, 1, 2, 9)}


def test_parquet_shards_without_names_are_numbered(tmp_path):
    rows = [(png(number), None, number % 2) for number in range(4)]
    shard(tmp_path / "hub" / "test.parquet", rows, ["normal", "pneumonia"])
    release = recognise(tmp_path / "hub", tmp_path / "cache")
    assert release.kind == "Hugging Face"
    assert sorted((item.image_id, item.label) for item in release.images) == [
        ("huggingface-test-00000", "NORMAL"),
        ("huggingface-test-00001", "PNEUMONIA"),
        ("huggingface-test-00002", "NORMAL"),
        ("huggingface-test-00003", "PNEUMONIA"),
    ]
    assert all(item.patient_id.startswith(UNKNOWN_PATIENT) for item in release.images)


BAD_SHARDS = {
    "numbers without meaning": ([(png(0), None, 0)], None, "has numbers for labels without their meaning"),
    "other classes": ([(png(0), None, 0)], ["NORMAL", "TUBERCULOSIS"], r"the classes TUBERCULOSIS beside NORMAL"),
    "a label without a name": ([(png(0), None, 7)], ["NORMAL", "PNEUMONIA"], "image 0 of train has the label 7"),
    "no bytes": ([(None, None, 0)], ["NORMAL"], "image 0 of train has no bytes"),
    "no image": ([(b"text", None, 0)], ["NORMAL"], "Image 0 of train is no JPEG"),
    "two of one name": (
        [(png(n), "IM-0001-0001.png", 0) for n in (1, 2)],
        ["NORMAL"],
        "two images are named IM-0001-0001.png",
    ),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_foreign_shard_is_refused_and_nothing_is_kept(name, tmp_path):
    rows, names, message = BAD_SHARDS[name]
    shard(tmp_path / "hub" / "train.parquet", rows, names)
    with pytest.raises(ArchiveError, match=message):
        recognise(tmp_path / "hub", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "unpacked").iterdir()] == [".lock"]


def test_damaged_shard_is_refused(tmp_path):
    path = shard(tmp_path / "hub" / "train.parquet", [(png(0), None, 0)] * 50, ["NORMAL"])
    for raw in (path.read_bytes()[:-20], b"x", path.read_bytes()[:40] + bytes(60) + path.read_bytes()[100:]):
        path.write_bytes(raw)
        with pytest.raises(ArchiveError, match="is damaged or no Parquet file"):
            recognise(tmp_path / "hub", tmp_path / "cache")


def _dicom(root: Path, files: dict[str, str | None]) -> Path:
    for name, patient in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dicom(np.zeros((16, 16), dtype=np.uint8), PatientID=patient))
    return root


def test_dicom_class_is_from_folder_and_patient_from_header(tmp_path):
    root = _dicom(
        tmp_path,
        {
            "train/NORMAL/1.dcm": "4711",
            "train/PNEUMONIA/2.DCM": "4712",
            "train/PNEUMONIA/1.2.840.113": "4712",  # named by a dotted number, as scanners do
            "train/PNEUMONIA/IM0001": "",
            "train/PNEUMONIA/study/series/IM0001": "4713",
            "val/VIRUS/person7_virus_1.dcm": "4714",
        },
    )
    release = recognise(root, tmp_path / "cache")
    known = _described(release.images)
    assert release.kind == "DICOM"
    assert {name: values[0] for name, values in known.items()} == {
        "1": "NORMAL",
        "2": "PNEUMONIA",
        "1.2.840.113": "PNEUMONIA",
        "IM0001": "PNEUMONIA",
        "study-series-IM0001": "PNEUMONIA",
        "person7_virus_1": "VIRUS",
    }
    assert known["2"][1] == known["1.2.840.113"][1] != known["1"][1]
    assert known["IM0001"][1] == f"{UNKNOWN_PATIENT}IM0001"
    assert known["person7_virus_1"][1:] == ("VIRUS-7", "val")
    assert not any(secret in patient for _, patient, _ in known.values() for secret in ("4711", "4712", "4713", "Kim"))
    notes = " ".join(release.notes)
    assert "digests of PatientID" in notes
    assert "1 of 6 images name no patient" in notes
    assert "4 images are pneumonia of an unknown kind: train with task=pneumonia" in notes


def test_dicom_files_without_any_label_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="unknown layout"):
        find(_dicom(tmp_path, {"a.dcm": "1", "b.dcm": "2"}))
    with pytest.raises(
        LabelError, match=r"2 files .* have names without class or patient, for example train/a\.dcm, train/b\.dcm"
    ):
        find(_dicom(tmp_path / "root", {"train/a.dcm": "1", "train/b.dcm": "2"}))


def test_file_without_suffix_that_is_no_dicom_is_refused(tmp_path):
    with pytest.raises(LabelError, match="NORMAL/LICENSE"):
        find(_tree(tmp_path, ["NORMAL/IM-0001-0001.jpeg", "NORMAL/LICENSE"]))


def test_unknown_pneumonia_is_a_class_of_the_binary_task_only():
    assert PNEUMONIA.index("PNEUMONIA") == PNEUMONIA.index("VIRUS") == 1
    with pytest.raises(LabelError, match=r"task=subtype has no class for them\. Use task=pneumonia"):
        SUBTYPE.index("PNEUMONIA")
    with pytest.raises(LabelError, match="no class for the label 'COVID'; it knows NORMAL, VIRUS, BACTERIA"):
        SUBTYPE.index("COVID")


@pytest.mark.real
def test_real_release_has_the_published_image_and_patient_counts(real_xrays, tmp_path):
    release = recognise(real_xrays, tmp_path)
    patients = {(item.label, item.patient_id) for item in release.images}
    assert release.kind == "Kaggle"
    assert len(release.images) == 5232
    assert Counter(label for label, _ in patients) == {"NORMAL": 1219, "BACTERIA": 1360, "VIRUS": 1090}
    assert any("val has 16 images and none of class VIRUS" in note for note in release.notes)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_parquet_file_is_read_or_refused(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    path = shard(folder / "hub" / "train.parquet", [(png(number), None, 0) for number in range(3)], ["NORMAL"])
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        recognise(folder / "hub", folder / "cache")
    except PneumoniaError:  # any other exception fails the test
        assert not list((folder / "cache" / "unpacked").rglob("*.png"))
