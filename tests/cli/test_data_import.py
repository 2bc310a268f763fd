"""`pneumonia data import`: every kind of source gives a right manifest, and bad input leaves the old one as it was."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import dicom, make_tar, make_zip, medmnist, png, tree

from pneumonia.cli import main
from pneumonia.data.manifest import read_manifest
from pneumonia.system.console import CONSOLE

KAGGLE = {
    "train/NORMAL/IM-0001-0001.png": png(1),
    "train/NORMAL/IM-0001-0002.png": png(2, 40),
    "train/PNEUMONIA/person1_virus_1.png": png(3),
    "train/PNEUMONIA/person1_bacteria_1.png": png(4),
    "test/PNEUMONIA/person2_virus_2.png": png(5),
}
MENDELEY = {
    "train/NORMAL/NORMAL-100-0001.png": png(1),
    "train/PNEUMONIA/VIRUS-100-0001.png": png(2),
    "train/PNEUMONIA/BACTERIA-100-0001.png": png(3),
    "test/PNEUMONIA/BACTERIA-100-0002.png": png(4),
}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder: code, standard output, standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PNEUMONIA_CACHE", raising=False)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pneumonia", "data", "import", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        output = capsys.readouterr()
        return int(stop.value.code or 0), output.out, output.err

    return call


def rows(path: str | Path = "manifest.parquet") -> dict[str, tuple[str, str, str]]:
    manifest = read_manifest(Path(path))
    columns = (manifest[name] for name in ("image_id", "label", "patient_id", "source_split"))
    return {name: rest for name, *rest in zip(*columns, strict=True)}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│\n ").split("│")] for line in table.splitlines() if "│" in line]


def test_kaggle_folder_gives_a_manifest_and_a_summary(run, tmp_path, monkeypatch):
    monkeypatch.setattr(CONSOLE, "width", 200)
    root = tree(tmp_path / "data" / "chest_xray", KAGGLE)
    code, out, err = run(root.parent)
    assert code == 0, err
    assert out == "manifest.parquet\n"
    assert rows() == {
        "IM-0001-0001": ["NORMAL", "IM-1", "train"],
        "IM-0001-0002": ["NORMAL", "IM-1", "train"],
        "person1_virus_1": ["VIRUS", "VIRUS-1", "train"],
        "person1_bacteria_1": ["BACTERIA", "BACTERIA-1", "train"],
        "person2_virus_2": ["VIRUS", "VIRUS-2", "test"],
    }
    manifest = pd.read_parquet("manifest.parquet").set_index("image_id")
    for name, raw in KAGGLE.items():
        row = manifest.loc[Path(name).stem]
        assert row["path"] == str(root / name)
        assert row["sha256"] == hashlib.sha256(raw).hexdigest()
        assert (row["width"], row["height"], row["bytes"], row["mode"]) == (
            *([40] * 2 if "0002.png" in name else [32] * 2),
            len(raw),
            "L",
        )
    for words in ("Kaggle: ", "train", "32 to 40", "- The release is in chest_xray."):
        assert words in err
    assert ["train", "2", "1", "1", "4", "3", "32 to 40", "32 to 40"] in cells(err)
    assert ["all", "2", "2", "1", "5", "4", "32 to 40", "32 to 40"] in cells(err)


def test_summary_turns_where_the_terminal_is_narrow(run, tmp_path, monkeypatch):
    monkeypatch.setattr(CONSOLE, "width", 60)
    _, _, err = run(tree(tmp_path / "data" / "chest_xray", KAGGLE).parent)
    assert ["BACTERIA", "1", "0", "1"] in cells(err)
    assert ["images", "4", "1", "5"] in cells(err)


def test_a_mendeley_tree_gives_its_manifest(run, tmp_path):
    code, _, err = run(tree(tmp_path / "data", MENDELEY), "--out", "m/x.parquet")
    assert code == 0, err
    assert "Mendeley v3" in err
    assert rows("m/x.parquet") == {
        "NORMAL-100-0001": ["NORMAL", "NORMAL-100", "train"],
        "VIRUS-100-0001": ["VIRUS", "VIRUS-100", "train"],
        "BACTERIA-100-0001": ["BACTERIA", "BACTERIA-100", "train"],
        "BACTERIA-100-0002": ["BACTERIA", "BACTERIA-100", "test"],
    }


def test_a_medmnist_file_gives_its_manifest(run, tmp_path):
    code, _, err = run(medmnist(tmp_path / "pneumoniamnist_64.npz", 64))
    assert code == 0, err
    manifest = read_manifest(Path("manifest.parquet"))
    assert (manifest["width"] == 64).all()
    assert manifest.groupby(["source_split", "label"]).size().to_dict() == {
        ("train", "NORMAL"): 4,
        ("train", "PNEUMONIA"): 8,
        ("val", "NORMAL"): 2,
        ("val", "PNEUMONIA"): 2,
        ("test", "NORMAL"): 2,
        ("test", "PNEUMONIA"): 4,
    }
    assert manifest["patient_id"].is_unique
    assert "train with task=pneumonia" in err
    assert ["val", "2", "2", "4", "unknown", "64", "64"] in cells(err)
    assert "No image names its patient" in err


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_an_archive_gives_the_manifest_of_its_folder(name, run, tmp_path):
    make = make_zip if name.endswith("zip") else make_tar
    archive = make(tmp_path / name, {f"chest_xray/{path}": raw for path, raw in KAGGLE.items()})
    assert run(archive)[0] == 0
    unpacked = rows()
    assert all(Path(path).is_absolute() for path in pd.read_parquet("manifest.parquet")["path"])
    assert run(tree(tmp_path / "plain", KAGGLE))[0] == 0
    assert rows() == unpacked


def test_dicom_files_with_a_table_give_a_manifest(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80)).astype(np.uint8)
    files = {
        "s/1": dicom(pixels, PatientID="4711"),
        "t/1": dicom(255 - pixels, PatientID="4711", PhotometricInterpretation="MONOCHROME1"),
    }
    root = tree(tmp_path / "data", files)
    table = tree(tmp_path, {"labels.csv": b"path,label,split\ns/1,normal,train\nt/1,virus,test\n"}) / "labels.csv"
    code, _, err = run(root, "--labels", table)
    assert code == 0, err
    manifest = read_manifest(Path("manifest.parquet")).set_index("image_id")
    assert list(manifest.index) == ["s-1", "t-1"]
    assert list(manifest["mode"]) == ["DICOM MONOCHROME2", "DICOM MONOCHROME1"]
    assert list(manifest["width"]) == [80, 80]
    assert manifest["patient_id"].nunique() == 1
    assert manifest["phash"].nunique() == 1, "both show the same picture"
    assert b"4711" not in Path("manifest.parquet").read_bytes()


def test_importing_again_gives_the_same_bytes(run, tmp_path):
    root = tree(tmp_path / "data", KAGGLE)
    assert run(root)[0] == 0
    first = Path("manifest.parquet").read_bytes()
    assert run(root)[0] == 0
    assert Path("manifest.parquet").read_bytes() == first


def test_broken_images_are_listed_and_skipped_on_request(run, tmp_path):
    files = {**KAGGLE, "train/NORMAL/IM-0007-0001.png": b"text", "train/NORMAL/IM-0008-0001.jpeg": b""}
    files["train/NORMAL/IM-0009-0001.png"] = png(8)[:-60]  # its header is sound
    root = tree(tmp_path / "data", files)
    code, out, err = run(root)
    assert code == 2
    assert out == ""
    assert "BrokenImagesError: 3 images can't be read:" in err
    for line in (
        "IM-0007-0001.png: not an image",
        "IM-0008-0001.jpeg: empty file (0 bytes)",
        "IM-0009-0001.png: broken or cut short",
    ):
        assert line in err
    assert "use --on-bad-image skip" in err
    assert not Path("manifest.parquet").exists()
    code, _, err = run(root, "--on-bad-image", "skip")
    assert code == 0
    assert "Left out: 3 images that can't be read." in err
    assert set(rows()) == {Path(name).stem for name in KAGGLE}


def test_a_release_of_broken_images_alone_is_refused_even_then(run, tmp_path):
    code, _, err = run(tree(tmp_path / "data", {"NORMAL/IM-0001-0001.png": b"x"}), "--on-bad-image", "skip")
    assert code == 2
    assert "1 image can't be read" in err


BAD = {
    "no folder": (["nowhere"], "LayoutError: nowhere does not exist"),
    "an empty folder": (["empty"], "LayoutError: .*empty has an unknown layout: it is empty"),
    "a bomb": (["bomb.zip"], "ArchiveError: .*bomb.zip was not unpacked: .*zip bomb"),
    "an archive that leads elsewhere": (["slip.tar.gz"], "ArchiveError: .*leads out of the folder"),
    "pickled objects": (["pickle.npz"], "ArchiveError: .*train_labels holds pickled objects"),
    "labels that do not match": (["table"], "LabelError: .*1 of 2 rows name no file .*1 of 2 images have no row"),
    "two files of one id": (
        ["twice"],
        "LabelError: 1 image names occur in more than one place, for example IM-0001-0001",
    ),
    "a text file": (["notes.txt"], "LayoutError: .*notes.txt is a file that can't be read as data"),
    "a manifest": (["old.parquet"], "ConfigError: old.parquet is a manifest already"),
    "nothing": ([], "ConfigError: There is neither SOURCE nor --from"),
    "too much": (["empty", "--from", "kaggle"], "ConfigError: There is both SOURCE and --from"),
    "another host": (["--from", "dropbox"], "ConfigError: .*'--from': 'dropbox' is not one of"),
    "an odd size": (["--from", "medmnist", "--size", "30"], "ConfigError: .*'--size': '30' is not one of"),
    "a size elsewhere": (["empty", "--size", "64"], "ConfigError: --size goes with --from medmnist alone"),
    "a repo elsewhere": (["empty", "--repo", "a/b"], "ConfigError: --repo goes with --from huggingface alone"),
    "no parquet": (
        ["empty", "--out", "x.csv"],
        "ConfigError: --out x.csv can't be the manifest; name a file that ends in .parquet",
    ),
    "an unknown word": (["empty", "--lables", "x"], "ConfigError: No such option '--lables'. Did you mean '--labels'"),
    "labels for arrays": (["fine.npz", "--labels", "x.csv"], "LabelError: .*holds its own labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_keeps_the_old_manifest(name, run, tmp_path):
    here = tmp_path / "here"
    (here / "empty").mkdir()
    make_zip(here / "bomb.zip", {f"NORMAL/IM-000{number}-0001.png": bytes(16 * 2**20) for number in range(5)})
    make_tar(here / "slip.tar.gz", {"../IM-0001-0001.png": b"x"})
    medmnist(here / "pickle.npz", train_labels=np.array([{}] * 12, dtype=object))
    medmnist(here / "fine.npz")
    tree(here / "table", {"a.png": png(0), "b.png": png(1), "labels.csv": b"image,label\na,normal\nc,virus\n"})
    tree(here / "twice", {"train/IM-0001-0001.png": png(0), "test/IM-0001-0001.png": png(1)})
    (here / "notes.txt").write_text("x")
    (here / "manifest.parquet").write_bytes(b"as it was")
    (here / "old.parquet").write_bytes(b"")
    words, message = BAD[name]
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    last = " ".join(err.split())
    assert pd.Series([last]).str.contains(message).all(), err
    assert "Traceback" not in err
    assert (here / "manifest.parquet").read_bytes() == b"as it was"
    assert not [path for path in tmp_path.rglob("*.part")]
    assert not (tmp_path / "IM-0001-0001.png").exists()


def test_a_hostile_name_has_no_power_over_the_terminal(run, tmp_path):
    root = tree(tmp_path / "[red]data[/nope]", {**KAGGLE, "train/[bold]x/a.png": png(0)})
    code, _, err = run(root)
    assert code == 0, err
    assert "[red]data[/nope]" in err
    assert "train/[bold]x." in err


def test_a_download_is_imported_as_the_client_left_it(run, tmp_path, monkeypatch):
    import medmnist as client

    path = medmnist(tmp_path / "pneumoniamnist_128.npz", 128)
    monkeypatch.setitem(client.INFO["pneumoniamnist"], "MD5_128", hashlib.md5(path.read_bytes()).hexdigest())
    place = tmp_path / "cache" / "downloads" / "medmnist"
    place.mkdir(parents=True)
    path.rename(place / path.name)  # there already, with the right checksum: the network is not asked
    code, _, err = run("--from", "medmnist", "--size", "128", "--cache-dir", tmp_path / "cache")
    assert code == 0, err
    assert (read_manifest(Path("manifest.parquet"))["width"] == 128).all()


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['pneumonia', 'data', 'import', '--help']\n"
        "from pneumonia.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'azure', 'hydra', 'pydicom', 'pyarrow', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--from [kaggle|huggingface|medmnist]" in done.stdout


@pytest.mark.real
def test_the_real_release_gives_its_manifest(run, real_xrays, cache_dir):
    code, _, err = run(real_xrays, "--cache-dir", cache_dir)
    assert code == 0, err
    manifest = read_manifest(Path("manifest.parquet"))
    assert len(manifest) == 5232
    assert manifest.groupby("label")["patient_id"].nunique().to_dict() == {
        "BACTERIA": 1360,
        "NORMAL": 1219,
        "VIRUS": 1090,
    }
    assert "val has 16 images and none of class VIRUS" in err
