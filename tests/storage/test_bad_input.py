"""Test failures against a real Azurite: odd names and blobs, insufficient tokens, full disks, wrong folders."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, ContentSettings, generate_container_sas

from pneumonia.config.schema import AzureConfig
from pneumonia.data.sources.azure import load_mirror
from pneumonia.errors import AccessError, BlobError, ConfigError, TransferError
from pneumonia.storage import pull as pull_module
from pneumonia.storage import push as push_module
from pneumonia.storage import transfers
from pneumonia.storage.client import Place, connect, redacted, with_retries
from pneumonia.storage.journal import read_journal
from pneumonia.storage.pull import pull, warn_of_foreign_files
from pneumonia.storage.push import push
from pneumonia.storage.transfers import list_blobs, run_concurrently

from .conftest import ACCOUNT, KEY, Proxy, connection_string


def put(service: BlobServiceClient, container: str, files: dict[str, bytes], **settings: str) -> None:
    client = service.get_container_client(container)
    for name, content in files.items():
        checksum = bytearray(hashlib.md5(content).digest())
        client.upload_blob(name, content, overwrite=True, content_settings=ContentSettings(content_md5=checksum, **settings))


def held(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".mirror")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# Listings


def test_listing_says_what_the_client_library_says(service, container, monkeypatch):
    names = [
        "a/plain.jpeg",
        "a/ünïcode nämé.txt",
        "a/and & <angle>.txt",
        "a/ space at the end ",
        "a/%41.txt",
        "b/other.txt",
    ]
    put(service, container, {name: name.encode() * 3 for name in names})
    client = service.get_container_client(container)
    client.upload_blob("a/marker", b"", metadata={"hdi_isfolder": "true"})
    client.upload_blob("a/folder/", b"")
    monkeypatch.setattr(transfers, "PER_PAGE", 3)
    found = list_blobs(client, Place.parse(f"{container}/a"))
    theirs = {
        item.name.removeprefix("a/"): (item.etag.strip('"'), item.size, bytes(item.content_settings.content_md5).hex())
        for item in client.list_blobs("a/")
        if item.name not in {"a/marker", "a/folder/"}
    }
    assert len(theirs) == 5
    assert {name: (blob.etag.strip('"'), blob.size, blob.md5) for name, blob in found.items()} == theirs


def test_name_that_xml_can_not_hold_is_decoded(service, container, through_proxy, proxy: Proxy):
    put(service, container, {"a/b" + "x" * 17: b"x"})
    plain, encoded = b"<Name>a/b" + b"x" * 17 + b"</Name>", b'<Name Encoded="true">a%2Fb</Name>'
    proxy.damage = lambda piece: piece.replace(plain, encoded)
    client = through_proxy.get_container_client(container)
    assert [item.name for item in client.list_blobs()] == ["a/b"]
    assert list(list_blobs(client, Place.parse(container))) == ["a/b"]


def test_listing_that_is_no_listing_is_named(service, container, through_proxy, proxy: Proxy, tmp_path):
    put(service, container, {"a.txt": b"x"})
    page = b"<html>Sign in to the hotel's network"
    proxy.damage = lambda piece: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page)
    with pytest.raises(TransferError, match=r"Can't list .*after 5 attempts"):
        pull(through_proxy, Place.parse(container), tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_empty_place_removes_nothing(service, container, tmp_path):
    put(service, container, {"train/a.txt": b"x"})
    pull(service, Place.parse(f"{container}/train"), tmp_path)
    service.get_container_client(container).delete_blob("train/a.txt")
    with pytest.raises(BlobError, match=r"/train contains no blob. Nothing was pulled, and nothing was removed"):
        pull(service, Place.parse(f"{container}/train"), tmp_path)
    assert held(tmp_path) == {"a.txt": b"x"}


def test_nonempty_blob_with_trailing_slash_is_refused(service, container, tmp_path):
    put(service, container, {"a.txt": b"x", "folder/": b"content"})
    with pytest.raises(BlobError, match=r"1 blob names .*'folder/'"):
        pull(service, Place.parse(container), tmp_path / "mirror")


# Blobs


def test_compressed_blob_is_pulled_as_stored(service, container, tmp_path):
    stored = gzip.compress(b"pixels " * 500)
    put(service, container, {"a.dcm.gz": stored}, content_encoding="gzip")
    pull(service, Place.parse(container), tmp_path)
    assert held(tmp_path) == {"a.dcm.gz": stored}


def test_archived_blob_is_named_with_what_to_do(service, container, tmp_path):
    put(service, container, {"a.txt": b"x"})
    service.get_container_client(container).get_blob_client("a.txt").set_standard_blob_tier("Archive")
    with pytest.raises(BlobError, match=r"Can't pull a\.txt \(BlobArchived\): it is in the archive tier\. Move it to"):
        pull(service, Place.parse(container), tmp_path)


def test_blob_that_goes_between_listing_and_reading_is_named(service, container, tmp_path, monkeypatch):
    put(service, container, {"a.txt": b"x"})
    plain = pull_module._download

    def late(*args):
        service.get_container_client(container).delete_blob("a.txt")
        plain(*args)

    monkeypatch.setattr(pull_module, "_download", late)
    with pytest.raises(BlobError, match=r"Can't pull a\.txt: it does not exist \(BlobNotFound\)"):
        pull(service, Place.parse(container), tmp_path)
    assert held(tmp_path) == {}


def test_brackets_in_names_are_no_markup(service, container, through_proxy, proxy: Proxy, tmp_path, capsys, monkeypatch):
    from pneumonia.cli import run

    put(service, container, {"[red]/x[/].jpeg": b"x"})
    assert run(["data", "pull", f"{container}/[red]", str(tmp_path / "mirror")]) == 0
    assert held(tmp_path / "mirror") == {"x[/].jpeg": b"x"}
    assert f"Pulled {container}/[red]: 1 files: 1 moved" in capsys.readouterr().err
    monkeypatch.setattr("pneumonia.storage.client.PAUSES_S", (1.5,))
    tries = []

    def cut(piece: bytes) -> bytes:
        if not tries:
            tries.append(piece)
            raise ConnectionResetError
        return piece

    proxy.damage = cut
    pull(through_proxy, Place.parse(f"{container}/[red]"), tmp_path / "again")
    assert f"Can't list {container}/[red] now; retrying in" in capsys.readouterr().err


def test_line_that_falls_silent_is_tried_again(service, container, through_proxy, proxy: Proxy, tmp_path, monkeypatch):
    put(service, container, {"a.bin": bytes(300_000)})
    monkeypatch.setattr("pneumonia.storage.client.READ_S", 0.5)
    silent = [1]

    def fall_silent(piece: bytes) -> bytes:
        if len(piece) > 10_000 and silent:
            silent.pop()
            time.sleep(2)
        return piece

    proxy.damage = fall_silent
    assert pull(connect(), Place.parse(container), tmp_path).moved == 1
    assert not silent
    assert held(tmp_path) == {"a.bin": bytes(300_000)}


# The folder


def test_pull_that_breaks_twice_still_knows_its_files(service, container, tmp_path, monkeypatch):
    put(service, container, {"a.txt": b"first", "b.txt": b"first"})
    place = Place.parse(container)
    pull(service, place, tmp_path)
    (tmp_path / "a.txt").write_bytes(b"damaged")

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pull_module, "_download", broken)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                pull(service, place, tmp_path)
    assert pull(service, place, tmp_path).moved == 1
    assert held(tmp_path) == {"a.txt": b"first", "b.txt": b"first"}


def test_copied_mirror_is_known_by_its_checksums(service, container, tmp_path, monkeypatch):
    put(service, container, {"a.txt": b"first", "N/b.txt": b"second"})
    pull(service, Place.parse(container), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)  # loses the times
    monkeypatch.delattr(pull_module, "_download")
    done = pull(service, Place.parse(container), tmp_path / "two")
    assert (done.moved, done.unchanged) == (0, 2)


def test_another_place_is_not_pulled_over_a_mirror(service, container, tmp_path):
    put(service, container, {"train/a.txt": b"x", "test/b.txt": b"y"})
    pull(service, Place.parse(f"{container}/train"), tmp_path)
    with pytest.raises(BlobError, match=r"mirrors .*/train, and pulling .*/test into it would remove those files"):
        pull(service, Place.parse(f"{container}/test"), tmp_path)
    assert held(tmp_path) == {"a.txt": b"x"}


def test_nothing_is_removed_behind_a_link(service, container, tmp_path):
    put(service, container, {"NORMAL/a.txt": b"x", "b.txt": b"y"})
    pull(service, Place.parse(container), tmp_path / "mirror")
    (tmp_path / "mirror" / "NORMAL").rename(tmp_path / "elsewhere")
    (tmp_path / "mirror" / "NORMAL").symlink_to(tmp_path / "elsewhere")
    service.get_container_client(container).delete_blob("NORMAL/a.txt")
    assert pull(service, Place.parse(container), tmp_path / "mirror").deleted == 0
    assert (tmp_path / "elsewhere" / "a.txt").read_bytes() == b"x"


def test_journal_from_elsewhere_removes_nothing_outside(service, container, tmp_path):
    put(service, container, {"a.txt": b"x"})
    mirror = tmp_path / "mirror"
    pull(service, Place.parse(container), mirror)
    (tmp_path / "yours.txt").write_bytes(b"yours")
    stat = (tmp_path / "yours.txt").stat()
    line = f'{{"name": "../yours.txt", "etag": "1", "size": 5, "mtime_ns": {stat.st_mtime_ns}}}\n'
    with (mirror / ".mirror.jsonl").open("a") as file:
        file.write(line + "cut sho")
    assert "../yours.txt" in read_journal(mirror)[1]
    assert pull(service, Place.parse(container), mirror).deleted == 0
    assert (tmp_path / "yours.txt").read_bytes() == b"yours"


def test_changed_file_of_a_deleted_blob_stays_with_a_warning(service, container, tmp_path, capsys):
    put(service, container, {"a.txt": b"x", "b.txt": b"y"})
    pull(service, Place.parse(container), tmp_path)
    (tmp_path / "a.txt").write_bytes(b"my notes")
    service.get_container_client(container).delete_blob("a.txt")
    assert pull(service, Place.parse(container), tmp_path).deleted == 0
    assert held(tmp_path) == {"a.txt": b"my notes", "b.txt": b"y"}
    warn_of_foreign_files(tmp_path)
    assert "1 files in" in capsys.readouterr().err


def test_pull_larger_than_the_disk_is_refused_at_the_start(service, container, tmp_path, monkeypatch):
    put(service, container, {"a.txt": b"x" * 1000})
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"GB have to be pulled, and the disk of .* has 0\.00 GB free\. Nothing was"):
        pull(service, Place.parse(container), tmp_path)
    assert held(tmp_path) == {}


def test_pull_onto_a_full_disk_keeps_whole_files_and_resumes(service, container, tmp_path):
    files = {f"{number:02d}.bin": bytes([number]) * 3000 for number in range(30)}
    put(service, container, files)
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    # A disk of our own, which has room for 20 files however small they are: what is free does not show it.
    mount = f"mount -t tmpfs -o size=4m,nr_inodes=20 tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this machine lets no one mount a small disk of their own")
    pulled = f"{sys.executable} -m pneumonia data pull {container} {disk}/mirror --workers 2"
    script = f"{mount} && {{ {pulled}; code=$?; cp -rp {disk}/mirror {kept}; exit $code; }}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "StorageError" in done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    came = held(kept)
    assert 0 < len(came) < 30
    assert all(files[name] == content for name, content in came.items())
    after = pull(service, Place.parse(container), kept)
    assert (after.moved, after.unchanged) == (30 - len(came), len(came))


# Pushing


def test_token_for_one_container_is_enough_to_push(service, container, azurite, tmp_path):
    rights = ContainerSasPermissions(read=True, write=True, create=True, list=True)
    token = generate_container_sas(
        ACCOUNT, container, account_key=KEY, permission=rights, expiry=datetime.now(UTC) + timedelta(hours=1)
    )
    client = connect(f"http://127.0.0.1:{azurite}/{ACCOUNT}", environ={"AZURE_STORAGE_SAS_TOKEN": token})
    write(tmp_path / "new", {"a.txt": b"x"})
    assert push(client, tmp_path / "new", Place.parse(container)).moved == 1
    assert push(client, tmp_path / "new", Place.parse(container)).moved == 0
    with pytest.raises(AccessError, match="Azure refuses to list"):
        push(client, tmp_path / "new", Place.parse("other-container"))


def test_file_whose_name_azure_would_change_is_refused(service, container, tmp_path):
    write(tmp_path / "new", {"a\\b.txt": b"x", "sound.txt": b"y"})
    with pytest.raises(BlobError, match=r"1 files have names that can't be blobs: .*backslash.*Nothing was uploaded"):
        push(service, tmp_path / "new", Place.parse(container))
    assert not list(service.get_container_client(container).list_blobs())


def test_links_and_temporary_files_stay_here_and_links_are_said(service, container, tmp_path, capsys):
    write(tmp_path / "elsewhere", {"secret.txt": b"x"})
    folder = write(tmp_path / "new", {"a.txt": b"x", "b.txt.part": b"half", ".c.part": b"half", "run.lock": b"", "lock": b""})
    (folder / "NORMAL").symlink_to(tmp_path / "elsewhere")
    assert push(service, folder, Place.parse(container)).listed == 1
    assert [blob.name for blob in service.get_container_client(container).list_blobs()] == ["a.txt"]
    assert "1 links were not followed" in capsys.readouterr().err


def test_upload_whose_answer_was_lost_counts_as_ours(service, container, through_proxy, proxy: Proxy, tmp_path):
    folder = write(tmp_path / "new", {"a.txt": b"content"})
    lost = []

    def lose(piece: bytes) -> bytes:
        if piece.startswith(b"HTTP/1.1 201") and not lost:
            lost.append(piece)
            raise ConnectionResetError
        return piece

    proxy.damage = lose
    assert push(through_proxy, folder, Place.parse(container)).moved == 1
    assert lost
    assert service.get_container_client(container).download_blob("a.txt").readall() == b"content"


def test_file_written_during_a_push_is_named(service, container, tmp_path, monkeypatch):
    folder = write(tmp_path / "new", {"log.txt": b"first"})
    plain = push_module.file_hash

    def late(path: Path, algorithm: str) -> str:
        digest = plain(path, algorithm)
        path.write_bytes(b"later")
        return digest

    monkeypatch.setattr(push_module, "file_hash", late)
    with pytest.raises(TransferError, match=r"log\.txt changed during the upload.*Push again"):
        push(service, folder, Place.parse(container))


# Addresses and secrets


@pytest.mark.parametrize("prefix", ["../other", "a/../../other", "a//b", "./a", "back\\slash", "nul\0"])
def test_prefix_that_escapes_its_container_is_refused(prefix):
    with pytest.raises(ConfigError, match="can not be a prefix"):
        Place.parse(f"train/{prefix}/x")


@pytest.mark.parametrize(
    "text",
    ["train?sv=1&sig=TOPSECRET", "train/x?sig=TOPSECRET", f"{KEY}", "https://x.blob.core.windows.net/t?sig=TOPSECRET"],
)
def test_place_with_a_secret_is_refused_without_showing_it(text):
    with pytest.raises(ConfigError) as caught:
        Place.parse(text)
    assert "TOPSECRET" not in str(caught.value)
    assert KEY[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "environ", "message"),
    [
        (KEY, {}, r"\*\*\* is not a URL of an account"),
        ("https://x.blob.core.windows.net/train", {}, "without a container"),
        ("http://x.blob.core.windows.net", {}, "is not a URL of an account"),
        (None, {"AZURE_STORAGE_ACCOUNT": "https://x.blob.core.windows.net"}, "AZURE_STORAGE_ACCOUNT_URL"),
        (
            "http://127.0.0.1:1/devstoreaccount1",
            {"AZURE_STORAGE_SAS_TOKEN": "?"},
            "does not work with these credentials",
        ),
        (None, {"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={KEY}"}, "is not a connection string"),
    ],
)
def test_address_that_is_none_is_named_without_its_secret(url, environ, message):
    with pytest.raises(ConfigError, match=message) as caught:
        connect(url, environ=environ)
    assert KEY[:20] not in str(caught.value)


def test_address_can_come_from_the_environment(service, container, azurite, tmp_path):
    put(service, container, {"a.txt": b"x"})
    environ = {"AZURE_STORAGE_ACCOUNT_URL": f"http://127.0.0.1:{azurite}/{ACCOUNT}", "AZURE_STORAGE_KEY": KEY}
    assert pull(connect(environ=environ), Place.parse(container), tmp_path).moved == 1
    assert connect(environ={"AZURE_STORAGE_ACCOUNT": "somewhere", "AZURE_STORAGE_KEY": KEY}).url.startswith(
        "https://somewhere.blob.core.windows.net"
    )


def test_key_that_was_cut_is_named(service, container, azurite, tmp_path):
    client = connect(f"http://127.0.0.1:{azurite}/{ACCOUNT}", environ={"AZURE_STORAGE_KEY": KEY[:-3]})
    with pytest.raises(AccessError, match="the key is incomplete") as caught:
        pull(client, Place.parse(container), tmp_path)
    assert KEY[:20] not in str(caught.value)


def test_what_may_be_a_secret_is_blotted_out():
    text = f"AccountName=x;AccountKey={KEY};BlobEndpoint=y and ?sv=2024&sig=abc%2Bdef%3D&se=now and {KEY}"
    assert redacted(text) == "AccountName=x;AccountKey=***;BlobEndpoint=y and ?sv=2024&sig=***&se=now and ***"
    assert redacted("two--hyphens") == "two--hyphens"


@pytest.mark.parametrize("secret", ["key", "token"])
def test_command_shows_no_secret_whatever_fails(secret, service, container, azurite, tmp_path):
    expired = generate_container_sas(
        ACCOUNT,
        container,
        account_key=KEY,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) - timedelta(hours=1),
    )
    wrong = "c2VjcmV0" * 8
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    environ |= {"AZURE_STORAGE_KEY": wrong} if secret == "key" else {"AZURE_STORAGE_SAS_TOKEN": expired}
    for port, name in [(azurite, "AccessError"), (1, "TransferError")]:
        arguments = ["data", "pull", container, str(tmp_path), "--account-url", f"http://127.0.0.1:{port}/{ACCOUNT}"]
        code = "import pneumonia.storage.client as a; a.PAUSES_S = (0.01,); from pneumonia.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert name in done.stderr
        for hidden in (wrong, expired.rpartition("sig=")[2], "Traceback"):
            assert hidden not in done.stdout + done.stderr


# Many at once


def test_first_failure_wakes_those_who_wait_to_try_again():
    stop, tries = Event(), []

    def work(item: str) -> None:
        if item == "fails":
            raise BlobError("no")
        from azure.core.exceptions import ServiceRequestError

        def refused() -> None:
            tries.append(item)
            raise ServiceRequestError("no network")

        with_retries("wait", refused, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumonia.storage.client.PAUSES_S", (0.5, 100.0, 100.0))
        with pytest.raises(BlobError, match="no"):
            list(run_concurrently(work, ["waits", "fails"], 2, stop))
    assert stop.is_set()
    assert len(tries) <= 2


def test_parts_that_share_blobs_are_refused(service, azurite, tmp_path):
    for train, validation in [("xrays", "xrays/validation"), ("xrays", "xrays")]:
        with pytest.raises(ConfigError, match=r"lie inside those of .*Name places that do not overlap"):
            load_mirror(AzureConfig(None, train, validation, None), tmp_path)


def test_one_container_with_prefixes_is_a_study_too(service, container, tmp_path):
    put(service, container, {"train/NORMAL/a.jpeg": b"x", "validation/NORMAL/b.jpeg": b"y", "training/c.jpeg": b"z"})
    azure = AzureConfig(None, f"{container}/train", f"{container}/validation", None)
    assert held(load_mirror(azure, tmp_path)) == {"train/NORMAL/a.jpeg": b"x", "val/NORMAL/b.jpeg": b"y"}


def test_no_account_is_named_when_training(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=r"No Azure account is configured\. Set AZURE_STORAGE_CONNECTION_STRING"):
        load_mirror(AzureConfig(), tmp_path)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(1))
    with pytest.raises(ConfigError, match="train, validation and test are all null"):
        load_mirror(AzureConfig(None, None, None, None), tmp_path)
