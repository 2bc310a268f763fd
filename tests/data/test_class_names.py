"""Test that folders and tables give the classes of a task of the user's own."""

import pytest
from builders import png, shard, tree

from pneumonia.data.manifest import load_manifest, manifest_sha256
from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.sources.releases import Release, recognise
from pneumonia.errors import ArchiveError, LabelError, LayoutError
from pneumonia.tasks import PNEUMONIA, SUBTYPE, Task

COVID = Task.of(
    "covid",
    ["NORMAL", "COVID-19", "TB", "VIRAL"],
    synonyms={"NORMAL": ["healthy"], "COVID-19": ["corona"], "VIRAL": ["virus", "Viral Pneumonia"]},
)
FOLDERS = {
    "Normal/1.png": png(0),
    "Healthy/2.png": png(1),
    "covid_19/1.png": png(2),
    "Viral Pneumonia/a.png": png(3),
    "TB/patient7/1.png": png(4),
}
IMAGES = {f"{name}.png": png(number) for number, name in enumerate("abcd")}


def labels(release: Release) -> dict[str, str]:
    return {item.image_id: item.label for item in release.images}


def test_folders_named_by_class_give_labels(tmp_path):
    release = recognise(tree(tmp_path / "x", FOLDERS), tmp_path / "cache", task=COVID)
    assert release.kind == "class folders"
    assert labels(release) == {
        "Normal-1": "NORMAL",
        "2": "NORMAL",
        "covid_19-1": "COVID-19",
        "a": "VIRAL",
        "TB-patient7-1": "TB",
    }
    assert any(note.startswith("No image names its patient") for note in release.notes)


def test_subset_folders_around_classes_are_kept(tmp_path):
    files = {f"{subset}/{name}": raw for subset in ("train", "test") for name, raw in FOLDERS.items()}
    release = recognise(tree(tmp_path / "x", files), tmp_path / "cache", task=COVID)
    assert {item.source_split for item in release.images} == {"train", "test"}
    assert len(labels(release)) == len(files), "names are distinct"


def test_a_table_gives_classes_and_patients(tmp_path):
    table = "image,label,patient\na.png,healthy,p1\nb.png,Corona,p2\nc.png,viral pneumonia,p2\nd.png,tb,\n"
    release = recognise(tree(tmp_path / "x", {**IMAGES, "labels.csv": table.encode()}), tmp_path / "cache", task=COVID)
    assert labels(release) == {"a": "NORMAL", "b": "COVID-19", "c": "VIRAL", "d": "TB"}
    assert [item.patient_id for item in release.images] == ["p1", "p2", "p2", f"{UNKNOWN_PATIENT}d"]


def test_numbers_of_a_table_mean_what_its_header_says(tmp_path):
    table = "image,label (0=normal; 1=covid-19; 2=TB; 3=virus)\na,0\nb,1\nc,2\nd,3\n"
    release = recognise(tree(tmp_path / "x", {**IMAGES, "t.csv": table.encode()}), tmp_path / "c", task=COVID)
    assert list(labels(release).values()) == ["NORMAL", "COVID-19", "TB", "VIRAL"]


def test_names_of_a_release_give_patients_where_they_agree(tmp_path):
    files = {
        "NORMAL/IM-0001-0001.png": png(0),
        "corona/IM-0002-0001.png": png(1),
        "virus/person3_virus_4.png": png(2),
        "TB/x.png": png(3),
    }
    release = recognise(tree(tmp_path / "x", files), tmp_path / "cache", task=COVID)
    found = {item.image_id: (item.label, item.patient_id) for item in release.images}
    assert found["IM-0001-0001"] == ("NORMAL", "IM-1")
    assert found["IM-0002-0001"] == ("COVID-19", f"{UNKNOWN_PATIENT}IM-0002-0001"), "the folder goes before the name"
    assert found["person3_virus_4"] == ("VIRAL", "VIRUS-3")


def test_a_label_without_a_class_is_refused(tmp_path):
    root = tree(tmp_path / "x", {**FOLDERS, "bacteria/b.png": png(5)})
    with pytest.raises(LabelError, match="task=covid has no class for the label 'BACTERIA'; it knows NORMAL, COVID-19"):
        recognise(root, tmp_path / "cache", task=COVID)


def test_an_unknown_folder_or_word_is_named(tmp_path):
    with pytest.raises(LayoutError, match=r"Expected folders named by class \(NORMAL, COVID-19, TB, VIRAL"):
        recognise(tree(tmp_path / "x", {"lungs/a.png": png(0)}), tmp_path / "cache", task=COVID)
    table = b"image,label\na,normal\nb,flu\nc,tb\nd,tb\n"
    with pytest.raises(LabelError, match=r"unknown labels in the column 'label': 'flu'\. Known are .*corona"):
        recognise(tree(tmp_path / "y", {**IMAGES, "t.csv": table}), tmp_path / "cache", task=COVID)


def test_without_the_task_its_words_are_unknown(tmp_path):
    table = b"image,label\na,normal\nb,corona\nc,tb\nd,tb\n"
    root = tree(tmp_path / "y", {**IMAGES, "t.csv": table})
    with pytest.raises(LabelError, match=r"unknown labels .* --task FILE for other commands"):
        recognise(root, tmp_path / "cache")


def test_a_manifest_follows_the_task_that_reads_it(tmp_path):
    files = {"virus/person1_virus_1.png": png(0), "NORMAL/IM-1-1.png": png(1)}
    root, cache = tree(tmp_path / "x", files), tmp_path / "cache"
    sick = Task.of("sick", ["NORMAL", "SICK"], synonyms={"SICK": ["VIRUS", "BACTERIA", "PNEUMONIA"]})
    manifests = {task.name: load_manifest(root, cache, task=task) for task in (SUBTYPE, PNEUMONIA, sick, COVID)}
    assert {name: sorted(found["label"]) for name, found in manifests.items()} == {
        "subtype": ["NORMAL", "VIRUS"],
        "pneumonia": ["NORMAL", "VIRUS"],
        "sick": ["NORMAL", "SICK"],
        "covid": ["NORMAL", "VIRAL"],
    }
    assert len({manifest_sha256(found) for found in manifests.values()}) == 3


def test_a_class_without_images_is_refused_before_decoding(tmp_path):
    root = tree(tmp_path / "x", {"NORMAL/a.png": png(0), "TB/b.png": b"no image"})
    with pytest.raises(
        LabelError, match=r"The data has no image of class COVID-19, VIRAL \(NORMAL 1, COVID-19 0, TB 1, VIRAL 0\)"
    ):
        load_manifest(root, tmp_path / "cache", task=COVID, every_class=True)
    assert not (tmp_path / "cache" / "manifests").exists()


def test_shards_of_other_classes_are_unpacked(tmp_path):
    rows = [(png(number), None, number % 3) for number in range(3)]
    shard(tmp_path / "hub" / "test.parquet", rows, ["Healthy", "Corona", "Viral Pneumonia"])
    for task, expected in (
        (COVID, ["NORMAL", "COVID-19", "VIRAL"]),
        (Task.of("c", ["HEALTHY", "CORONA", "VIRAL_PNEUMONIA"]), None),
    ):
        release = recognise(tmp_path / "hub", tmp_path / "cache", task=task)
        assert sorted(labels(release).values()) == sorted(expected or task.classes), "each task unpacks for itself"
    with pytest.raises(ArchiveError, match="has the classes Healthy, Corona"):
        recognise(tmp_path / "hub", tmp_path / "cache")
