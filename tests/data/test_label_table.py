"""Test that each row of a table of labels finds its image, and that mismatches are counted and named."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from builders import dicom, png, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pneumonia.data.sources.file_names import UNKNOWN_PATIENT
from pneumonia.data.sources.label_table import read_table
from pneumonia.data.sources.releases import recognise
from pneumonia.errors import LabelError, LayoutError, printable

IMAGES = {f"{name}.png": png(number) for number, name in enumerate("abcd")}
TABLE = "image,label,patient,split\na.png,Normal,p1,train\nb.png,viral,p1,val\nc.png,Bacterial pneumonia,p2,test\nd,PNEUMONIA,,\n"


def make(root: Path, table: str | bytes, images: dict[str, bytes] | None = None, name: str = "labels.csv") -> Path:
    content = table if isinstance(table, bytes) else table.encode()
    return tree(root, {**(IMAGES if images is None else images), name: content})


def read_labels(root: Path, cache: Path, labels: Path | None = None) -> dict[str, tuple[str, str, str]]:
    release = recognise(root, cache, labels)
    return {item.image_id: (item.label, item.patient_id, item.source_split) for item in release.images}


def test_flat_folder_with_one_table_is_recognised(tmp_path):
    root = make(tmp_path / "root", TABLE)
    release = recognise(root, tmp_path / "cache")
    assert release.kind == "labels table"
    assert read_labels(root, tmp_path / "cache") == {
        "a": ("NORMAL", "p1", "train"),
        "b": ("VIRUS", "p1", "val"),
        "c": ("BACTERIA", "p2", "test"),
        "d": ("PNEUMONIA", f"{UNKNOWN_PATIENT}d", ""),
    }
    assert release.notes[0] == f"Labels come from {root / 'labels.csv'}."
    assert any("1 of 4 images name no patient" in note for note in release.notes)


@pytest.mark.parametrize(
    "table",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        "\ufeff" + TABLE.replace("\n", "\r\n"),
        TABLE.replace("image,label,patient,split", " IMAGE , Class ,Patient_ID, PART"),
        TABLE.replace("image", "path").replace("a.png", "./a.png"),
        TABLE.replace("a.png,Normal", '"a.png","normal"') + "\n\n",
        TABLE.replace(",val", ",validation"),
    ],
)
def test_separators_case_and_marks_do_not_matter(table, tmp_path):
    plain = read_labels(make(tmp_path / "plain", TABLE), tmp_path / "cache")
    assert read_labels(make(tmp_path / "root", table), tmp_path / "cache") == plain


def test_images_are_found_by_path_where_names_repeat_no_id(tmp_path):
    images = {"x/a.png": png(0), "y/z/b.png": png(1), "y/c.dcm": dicom(np.zeros((16, 16), np.uint8), PatientID="4711")}
    root = make(tmp_path / "root", "file,label\nx/a.png,normal\ny\\z\\b,virus\nc.dcm,bacteria\n", images)
    found = read_labels(root, tmp_path / "cache")
    assert {name: values[0] for name, values in found.items()} == {"a": "NORMAL", "b": "VIRUS", "y-c": "BACTERIA"}
    assert found["y-c"][1].startswith("DICOM-"), "the header names the patient where the table does not"


def test_table_elsewhere_is_named_with_labels(tmp_path):
    root = tree(tmp_path / "root", IMAGES)
    table = tree(tmp_path / "tables", {"mine.csv": TABLE.encode()}) / "mine.csv"
    assert read_labels(root, tmp_path / "cache", table)["b"] == ("VIRUS", "p1", "val")


@pytest.mark.parametrize(
    ("header", "codes", "labels"),
    [
        ("label (0=normal; 1=virus; 2=bacteria)", "0120", ["NORMAL", "VIRUS", "BACTERIA", "NORMAL"]),
        ("Class [0 = Normal / 1 = Pneumonia]", "0110", ["NORMAL", "PNEUMONIA", "PNEUMONIA", "NORMAL"]),
        ("pneumonia", "0101", ["NORMAL", "PNEUMONIA", "NORMAL", "PNEUMONIA"]),
        ("is_pneumonia", "1111", ["PNEUMONIA"] * 4),
    ],
)
def test_numbers_count_where_the_header_says_what_they_mean(header, codes, labels, tmp_path):
    lines = [f"{name},{code}" for name, code in zip("abcd", codes, strict=True)]
    found = read_labels(make(tmp_path / "root", "\n".join([f"image,{header}", *lines])), tmp_path / "cache")
    assert [found[name][0] for name in "abcd"] == labels


def test_patient_missing_from_the_table_is_read_from_the_name(tmp_path):
    images = {"person7_virus_1.png": png(0), "IM-0003-0001.png": png(1)}
    table = "image,label\nperson7_virus_1.png,pneumonia\nIM-0003-0001.png,normal\n"
    found = read_labels(make(tmp_path / "root", table, images), tmp_path / "cache", tmp_path / "root" / "labels.csv")
    assert found == {"person7_virus_1": ("PNEUMONIA", "VIRUS-7", ""), "IM-0003-0001": ("NORMAL", "IM-3", "")}


def test_unneeded_table_is_ignored_with_a_note(tmp_path):
    images = {"train/NORMAL/IM-0001-0001.jpeg": png(0), "train/PNEUMONIA/person1_virus_1.jpeg": png(1)}
    release = recognise(make(tmp_path / "root", "image,label\nx,y\n", images), tmp_path / "cache")
    assert release.kind == "Kaggle"
    assert "labels.csv was not used" in release.notes[-1]


def test_subsets_are_from_folders_if_the_table_has_none(tmp_path):
    images = {"train/a.png": png(0), "validation/b.png": png(1)}
    found = read_labels(make(tmp_path / "root", "image,label\na,normal\nb,virus\n", images), tmp_path / "cache")
    assert {name: values[2] for name, values in found.items()} == {"a": "train", "b": "val"}


BAD = {
    "a row too many": (TABLE + "e.png,normal,,\n", r"1 of 5 rows name no file .*'e.png' \(line 6\)"),
    "an image too many": (TABLE.replace("d,PNEUMONIA,,\n", ""), r"1 of 4 images have no row, for example d\.png"),
    "both": (
        TABLE.replace("\nd,", "\ne,"),
        r"rows name no file .*'e' \(line 5\); 1 of 4 images have no row, for example d\.png",
    ),
    "a row twice": (TABLE + "a,normal,,\n", r"1 images have more than one row, for example 'a' \(lines 2 and 6\)"),
    "an unknown word": (
        TABLE.replace("viral", "covid"),
        r"1 rows have unknown labels in the column 'label'.*'covid'\. Known are normal, virus",
    ),
    "no word": (TABLE.replace("viral", ""), r"1 rows have unknown labels .*''"),
    "bare numbers": (
        "image,label\na,0\nb,1\nc,1\nd,2\n",
        r"4 rows .*'0', '1', '2'.* Numbers mean other classes.*'label \(0=normal",
    ),
    "an unknown subset": (
        TABLE.replace(",val", ",fold3"),
        r"1 rows have unknown subsets in the column 'split'.*'fold3'",
    ),
    "no name": (TABLE.replace("\na.png", "\n"), r"1 rows name no image, for example line 2"),
    "no label column": (
        TABLE.replace("label", "finding"),
        r"no column for the label \(label, class\); it has 'image', 'finding'",
    ),
    "no column at all": ("x,y\n1,2\n", r"no column for the image .* and none for the label"),
    "two label columns": (TABLE.replace("patient", "class"), r"several columns for one quantity: label, class"),
    "a column twice": (TABLE.replace("patient", "Image"), r"more than one column 'image'"),
    "only a header": ("image,label\n", r"has a header and no row"),
    "nothing": ("", r"labels\.csv is empty"),
    "ragged": (TABLE + "e.png,normal\n", r"1 rows do not have the 4 cells of the header, for example line 6"),
    "a quotation mark": (TABLE + '"e.png,normal,,\n', r"line 6: unexpected end of data\. Correct the quotation marks"),
    "latin-1": (
        TABLE.replace("p2", "m\u00fcller").encode("latin-1"),
        r"is not UTF-8 text \(byte \d+ is 0xfc\).*'CSV UTF-8'",
    ),
    "utf-16": (TABLE.encode("utf-16"), r"is not UTF-8 text|holds zero bytes"),
    "utf-16 without a mark": (TABLE.encode("utf-16-le"), r"holds zero bytes"),
    "codes of another class": (
        "image,label (0=normal; 1=covid)\na,0\n",
        r"has 1=covid, and 'covid' is none of normal",
    ),
    "codes without meaning": ("image,label (see readme)\na,0\n", r"does not give the meaning of its numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_table_that_does_not_match_is_refused_with_examples(name, tmp_path):
    table, message = BAD[name]
    root = make(tmp_path / "root", table)
    with pytest.raises(LabelError, match=message):
        recognise(root, tmp_path / "cache")


def test_name_in_two_places_needs_a_path(tmp_path):
    images = {"x/a.png": png(0), "y/a.png": png(1)}
    root = make(tmp_path / "root", "image,label\na.png,normal\nx/a.png,virus\n", images)
    with pytest.raises(
        LabelError,
        match=r"1 rows name an image that exists in more than one place, for example 'a.png' \(line 2\): x/a\.png, y/a\.png",
    ):
        recognise(root, tmp_path / "cache")


def test_images_of_one_name_are_matched_by_path(tmp_path):
    images = {"x/a.png": png(0), "y/a.png": png(1), "y/b.png": png(2), "y/b.jpeg": png(3), "c.png": png(4)}
    table = "image,label,patient\n" + "".join(f"{name},normal,p\n" for name in images)
    found = read_labels(make(tmp_path / "root", table, images), tmp_path / "cache")
    assert set(found) == {"x-a", "y-a", "y-b.png", "y-b.jpeg", "c"}


EXACT = {
    "a name that is another's without suffix": {"a.png": "a.png", "a.png.png": "a.png.png"},
    "the same in the other order": {"a.png.png": "a.png.png", "a.png": "a.png"},
    "a path that is another's name": {"a.png": "a.png", "x/a.png": "x/a.png"},
    "a bare path that is another's bare name": {"x/a": "x/a.png", "a": "a.png"},
    "dots": {"a.1": "a.1.png", "a.1.2": "a.1.2.png", "a": "a.png"},
    "a name in another case": {"A.PNG": "a.png", "b.png": "B.png"},
    "names that differ in case alone": {"a.png": "a.png", "A.png": "A.png"},
    "a suffix of another kind": {"a.jpeg": "a.jpeg", "a.png": "a.png"},
    "windows separators": {"x\\a.png": "x/a.png", "x\\y\\a": "x/y/a.png"},
    "a backslash in the name itself": {"x\\a.png": "x\\a.png", "x/a.png": "x/a.png"},
    "composed and decomposed letters": {"\u00e9.png": "e\u0301.png", "o\u0308.png": "\u00f6.png"},
    "both forms of one letter": {"\u00e9.png": "\u00e9.png", "e\u0301.png": "e\u0301.png"},
    "a path in another case before a name below": {"A.png": "a.png", "x/A.PNG": "x/a.PNG"},
    "a folder in another case": {"X/a.png": "x/a.png"},
}


@pytest.mark.parametrize("name", EXACT)
def test_most_exact_way_to_name_an_image_counts(name, tmp_path):
    rows = EXACT[name]
    kinds = ["normal", "virus", "bacteria"]
    table = "image,label\n" + "".join(f"{row},{kind}\n" for row, kind in zip(rows, kinds, strict=False))
    root = make(tmp_path / "root", table, {file: png(number) for number, file in enumerate(rows.values())})
    release = recognise(root, tmp_path / "cache")
    labels = {item.path.relative_to(root).as_posix(): item.label.lower() for item in release.images}
    assert labels == dict(zip(rows.values(), kinds, strict=False))


@pytest.mark.parametrize(
    ("row", "files", "candidates"),
    [
        ("a", ["a.png", "a.jpeg"], r"a\.jpeg, a\.png"),
        ("a.png", ["x/a.png", "y/a.png"], r"x/a\.png, y/a\.png"),
        ("AB.png", ["ab.png", "aB.png"], r"aB\.png, ab\.png"),
    ],
)
def test_ambiguous_row_is_refused_with_its_candidates(row, files, candidates, tmp_path):
    table = f"image,label\n{row},normal\n" + "".join(f"{file},virus\n" for file in files[1:])
    root = make(tmp_path / "root", table, {file: png(number) for number, file in enumerate(files)})
    with pytest.raises(LabelError, match=rf"'{row}' \(line 2\): {candidates}\. Name it by its path"):
        recognise(root, tmp_path / "cache")


@pytest.mark.parametrize("row", ["../root/a.png", "/etc/passwd", "x/../../a.png", "C:\\data\\a.png"])
def test_row_outside_the_folder_matches_no_file(row, tmp_path):
    root = make(tmp_path / "root", f"image,label\n{row},normal\n", {"a.png": png(0)})
    with pytest.raises(LabelError, match="1 of 1 rows name no file"):
        recognise(root, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_table_that_is_no_regular_file_is_not_read(kind, tmp_path):
    root = tree(tmp_path / "root", IMAGES)
    table = tmp_path / "labels.csv"
    if kind == "pipe":
        os.mkfifo(table)
    else:
        table.symlink_to("/dev/zero")
    with pytest.raises(LabelError, match=r"labels\.csv can't be read \(it is no regular file\)"):
        recognise(root, tmp_path / "cache", table)


@pytest.mark.parametrize("image", ["VIRUS/a.png", "PNEUMONIA/a.png", "person1_virus_1.png"])
def test_table_that_contradicts_folder_or_name_is_refused(image, tmp_path):
    root = make(tmp_path / "root", f"path,label\n{image},normal\n", {image: png(0)})
    with pytest.raises(LabelError, match=rf"contradicts .* 1 images, for example {image} \(NORMAL in line 2\)"):
        recognise(root, tmp_path / "cache", root / "labels.csv")


def test_several_tables_are_ambiguous(tmp_path):
    root = make(make(tmp_path / "root", TABLE), TABLE, name="other.csv")
    with pytest.raises(LayoutError, match=r"several tables \(labels.csv, other.csv\).*Use --labels FILE"):
        recognise(root, tmp_path / "cache")
    assert read_labels(root, tmp_path / "cache", root / "other.csv")


def test_missing_table_and_a_folder_without_images_are_named(tmp_path):
    root = make(tmp_path / "root", TABLE, {})
    with pytest.raises(LabelError, match=r"The table of labels .*gone.csv can't be read \(No such file"):
        recognise(root, tmp_path / "cache", tmp_path / "gone.csv")
    with pytest.raises(LayoutError, match="holds no image, so the rows of"):
        recognise(root, tmp_path / "cache")


def test_far_too_large_table_is_not_read(tmp_path):
    with (tmp_path / "x.csv").open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(LabelError, match="more than 100 MB"):
        read_table(tmp_path / "x.csv")


STARTS = [b"", TABLE.encode(), b"\xef\xbb\xbf" + TABLE.encode(), TABLE.encode("utf-16"), b"image,label\n"]
SIGNS = 'ab.png,;\t\n\r"\0\x1b\x0b\u2028\u00e9normal'


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=60) | st.text(SIGNS, max_size=60).map(str.encode))
def test_any_table_is_read_or_refused_and_nothing_else(start, rest, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "labels.csv"
    path.write_bytes(start + rest)
    try:
        assert read_table(path)
    except LabelError as error:
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", printable(error, lines=True))  # noqa: PT017 for what is printed


@pytest.mark.parametrize("column", ["image", "label"])
def test_control_characters_in_cells_are_escaped(column, tmp_path):
    table = "image,label\na\x1b[31m,normal\n" if column == "image" else "image,label\na,nor\x1b[31mmal\n"
    with pytest.raises(LabelError) as refused:
        recognise(make(tmp_path / "root", table), tmp_path / "cache")
    assert r"\x1b[31m" in str(refused.value)
    assert "\x1b" not in str(refused.value)
