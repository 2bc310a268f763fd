"""Test that `data=azure` gives the same run as the same files in a folder."""

import re
import sys

import pytest

from pneumonia.cli import main
from pneumonia.errors import BlobError
from pneumonia.storage.client import Place
from pneumonia.storage.push import push
from pneumonia.training.train import train

from .conftest import free_port


@pytest.fixture
def containers(service, phantoms) -> dict[str, str]:
    """Upload the phantoms of train and test to two containers, and some of them to a third as validation."""
    names = {part: f"{part}{free_port()}" for part in ("train", "test")}
    for part, name in names.items():
        push(service, phantoms / part, Place.parse(name))
    return names


def _arguments(containers: dict[str, str]) -> list[str]:
    arguments = [f"data.azure.{part}={name}" for part, name in containers.items()]
    return ["data=azure", "data.azure.validation=null", *arguments, "max_epochs=1"]


def test_training_from_containers_is_the_run_of_the_same_folder(containers, phantoms, compose, tmp_path):
    from_blobs = train(compose(*_arguments(containers), runs_dir=tmp_path))
    from_folder = train(compose("data=folder", f"data.root={phantoms}", "max_epochs=1", runs_dir=tmp_path))
    assert from_blobs.run_id == from_folder.run_id
    assert from_blobs.data.manifest_sha256 == from_folder.data.manifest_sha256
    assert "AccountKey" not in "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.suffix in {".yaml", ".json", ".csv"}
    )


def test_missing_container_is_named_before_anything_is_trained(containers, compose, tmp_path):
    with pytest.raises(BlobError, match="Can't list no-such-place: it does not exist"):
        train(compose(*_arguments({**containers, "test": "no-such-place"}), runs_dir=tmp_path))
    assert not list(tmp_path.rglob("*.yaml"))


def test_one_container_with_prefixes_serves_as_well(service, phantoms, compose, tmp_path):
    name = f"one{free_port()}"
    push(service, phantoms, Place.parse(f"{name}/study"))
    places = {"train": f"{name}/study/train", "test": f"{name}/study/test"}
    assert train(compose(*_arguments(places), runs_dir=tmp_path)).status == "completed"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "pull", "no-such", "DIR"], 2, "BlobError: Can't list no-such: it does not exist"),
        (["data", "pull", "Bad_Name", "DIR"], 2, "ConfigError: 'Bad_Name' can not be a container"),
        (["data", "pull", "train", "DIR", "--workers", "0"], 2, "'--workers': 0 is not in the range"),
        (["data", "push", "DIR", "train"], 2, "ConfigError: The folder"),
        (["data", "pull", "train"], 2, "Missing argument 'FOLDER'"),
        (["doctor", "--azure", "--azure-train", "no-such"], 1, "PROBLEM  azure      BlobError: Can't list no-such"),
    ],
)
def test_commands_end_with_a_code_and_a_reason(arguments, code, message, service, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["pneumonia", *(str(tmp_path / "x") if argument == "DIR" else argument for argument in arguments)]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert re.search(message, printed.out + printed.err), printed
    assert not (tmp_path / "x").exists()


def test_doctor_says_which_containers_can_be_listed(containers, monkeypatch, capsys):
    places = [f"--azure-{subset}={name}" for subset, name in {**containers, "validation": "null"}.items()]
    monkeypatch.setattr(sys, "argv", ["pneumonia", "doctor", "--azure", *places])
    with pytest.raises(SystemExit):
        main()
    assert re.search(r"ok +azure +devstoreaccount1: train\d+, test\d+ can be listed", capsys.readouterr().out)
