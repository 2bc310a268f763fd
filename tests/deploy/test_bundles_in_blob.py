"""Test that a bundle is the same after a push to a real Azurite and a pull."""

from pneumonia.cli import run
from pneumonia.export.runtime import Bundle
from tests.storage.conftest import connection_string, running_azurite


def test_bundle_is_pushed_and_pulled_whole(bundle_dir, tmp_path, monkeypatch):
    with running_azurite() as port:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(port))
        assert run(["data", "push", str(bundle_dir), "bundles/xray"]) == 0
        assert run(["data", "pull", "bundles/xray", str(tmp_path / "back")]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir() if path.name[0] != "."} == {
        path.name: path.read_bytes() for path in bundle_dir.iterdir()
    }
    assert Bundle.load(tmp_path / "back").contract == Bundle.load(bundle_dir).contract
