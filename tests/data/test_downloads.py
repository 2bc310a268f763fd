"""Test downloads by the real clients from servers on this machine, and without a network."""

import base64
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import medmnist, png

from pneumonia.data.sources import http_download as web_file
from pneumonia.data.sources.downloads import KAGGLE, fetch
from pneumonia.data.sources.http_download import download
from pneumonia.data.sources.releases import recognise
from pneumonia.errors import AccessError, ConfigError, StorageError, TransferError

SECRET = "sig-do-not-show"


class Server(http.server.ThreadingHTTPServer):
    """Respond from ``routes`` (path: status, headers, body) and record requests; ``cut`` truncates bodies."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.cut: list[int] = []
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path, dict(self.headers)))
        status, headers, body = self.server.routes.get(path, (404, {}, b"{}"))
        wanted = self.headers.get("Range")
        if wanted and status == 200 and self.server.ranges:
            begins = int(wanted.removeprefix("bytes=").partition("-")[0])
            if begins >= len(body):
                status, body = 416, b""
            else:
                headers = {**headers, "Content-Range": f"bytes {begins}-{len(body) - 1}/{len(body)}"}
                status, body = 206, body[begins:]
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            keep = self.server.cut.pop(0) if self.server.cut and len(body) > 1000 else len(body)
            self.wfile.write(body[:keep])
            if keep < len(body):
                self.close_connection = True

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_login(monkeypatch, tmp_path):
    """Remove credentials, proxies and caches."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("KAGGLE", "HF_", "HUGGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def md5(raw: bytes) -> str:
    return hashlib.md5(raw).hexdigest()


BODY = os.urandom(3 * 2**20 + 17)


def test_file_arrives_whole_and_is_not_asked_for_again(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    target = download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY))
    assert target.read_bytes() == BODY
    download(f"{server.url}/x.npz", target, md5(BODY))
    assert len(server.asked) == 1


def test_connection_that_breaks_goes_on_where_it_was(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    server.cut = [2**20 + 5, 2**20]
    assert download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY)).read_bytes() == BODY
    assert [headers.get("Range") for _, _, headers in server.asked] == [None, "bytes=1048581-", "bytes=2097157-"]


def test_later_call_goes_on_where_a_killed_one_was(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    (tmp_path / ".x.npz.part").write_bytes(BODY[:1000])
    assert download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY)).read_bytes() == BODY
    assert server.asked[0][2]["Range"] == "bytes=1000-"
    assert not (tmp_path / ".x.npz.part").exists()


def test_server_that_can_not_continue_starts_anew(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    server.ranges = False
    (tmp_path / ".x.npz.part").write_bytes(b"y" * 1000)
    assert download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY)).read_bytes() == BODY


def test_complete_partial_file_is_used(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    (tmp_path / ".x.npz.part").write_bytes(BODY)
    assert download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY)).read_bytes() == BODY


def test_partial_file_with_wrong_bytes_is_fetched_again(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    (tmp_path / ".x.npz.part").write_bytes(b"y" * 1000)
    assert download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY)).read_bytes() == BODY


def test_wrong_bytes_are_never_kept(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, b"an error page" * 50)
    with pytest.raises(TransferError, match=r"x.npz from 127.0.0.1 does not have the checksum .* 4 times"):
        download(f"{server.url}/x.npz?{SECRET}", tmp_path / "x.npz", md5(BODY))
    assert [path.suffix for path in tmp_path.iterdir() if path.name.startswith(".x")] == [".lock"]


@pytest.mark.parametrize(
    ("status", "error", "message", "asked"),
    [
        (404, TransferError, "HTTP 404", 1),
        (500, TransferError, "HTTP 500", 4),
        (403, AccessError, r"refuses .* \(403\)", 1),
    ],
)
def test_refusal_is_named_and_secrets_are_not_shown(status, error, message, asked, server, tmp_path):
    server.routes["/x.npz"] = (status, {}, b"")
    with pytest.raises(error, match=message) as caught:
        download(f"{server.url}/x.npz?{SECRET}", tmp_path / "x.npz", md5(BODY))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(server.asked) == asked, "only what may mend is tried again"


def test_silent_server_is_given_up(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(web_file, "TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TransferError, match=r"can't be reached, or broke off \(.*timed out"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/x", tmp_path / "x", md5(BODY))


def test_broken_transfer_reports_the_kept_bytes(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    server.cut = [200, 200, 200, 200]
    with pytest.raises(TransferError, match="800 bytes are kept, and the same command resumes"):
        download(f"{server.url}/x.npz", tmp_path / "x.npz", md5(BODY))


def test_place_that_can_not_be_written_is_named(server, tmp_path):
    server.routes["/x.npz"] = (200, {}, BODY)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        download(f"{server.url}/x.npz", tmp_path / "file" / "x.npz", md5(BODY))


@pytest.fixture
def medmnist_server(server, monkeypatch, tmp_path):
    """Serve PneumoniaMNIST of 64 px under the address that the medmnist package names."""
    info = pytest.importorskip("medmnist").INFO["pneumoniamnist"]
    raw = medmnist(tmp_path / "built.npz", 64).read_bytes()
    monkeypatch.setitem(info, "url_64", f"{server.url}/files/pneumoniamnist_64.npz?download=1")
    monkeypatch.setitem(info, "MD5_64", md5(raw))
    server.routes["/files/pneumoniamnist_64.npz"] = (200, {}, raw)
    return server


def test_medmnist_uses_address_and_checksum_of_its_package(medmnist_server, tmp_path):
    path = fetch("medmnist", tmp_path / "cache", size=64)
    assert path == tmp_path / "cache" / "downloads" / "medmnist" / "pneumoniamnist_64.npz"
    assert recognise(path, tmp_path / "cache").kind == "MedMNIST"
    assert fetch("medmnist", tmp_path / "cache", size=64) == path
    assert len(medmnist_server.asked) == 1


def test_every_size_of_medmnist_has_an_address_and_a_checksum():
    info = pytest.importorskip("medmnist").INFO["pneumoniamnist"]
    for flag in ("", "_64", "_128", "_224"):
        assert info[f"url{flag}"].startswith("https://")
        assert len(info[f"MD5{flag}"]) == 32


def test_default_medmnist_path_matches_the_config(compose, tmp_path):
    config = compose("data=medmnist", f"cache_dir={tmp_path}", small=False)
    assert config.data.root == str(tmp_path / "downloads" / "medmnist" / "pneumoniamnist.npz")


def test_size_that_medmnist_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--size 30 is no size of MedMNIST; choose one of 28, 64, 128, 224"):
        fetch("medmnist", tmp_path, size=30)


def release_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for number in range(30):
            file.writestr(f"chest_xray/train/NORMAL/IM-{number:04d}-0001.jpeg", png(number))
    return out.getvalue()


@pytest.fixture
def kaggle(server, monkeypatch):
    """Serve Kaggle's interface to its own client."""
    environment = pytest.importorskip("kagglesdk.kaggle_env")
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, server.url)
    raw = release_zip()
    check = base64.b64encode(hashlib.md5(raw).digest()).decode()
    answer = {"ref": KAGGLE, "currentVersionNumber": 2}
    server.routes["/v1/datasets.DatasetApiService/GetDataset"] = (
        200,
        {"Content-Type": "application/json"},
        json.dumps(answer).encode(),
    )
    server.routes["/v1/datasets.DatasetApiService/DownloadDataset"] = (200, {"X-Goog-Hash": f"md5={check}"}, raw)
    return server


def test_kaggle_is_asked_for_the_release_by_its_own_client(kaggle, tmp_path):
    folder = fetch("kaggle", tmp_path / "cache")
    release = recognise(folder, tmp_path / "cache")
    assert release.kind == "Kaggle"
    assert len(release.images) == 30
    asked = len(kaggle.asked)
    assert fetch("kaggle", tmp_path / "cache") == folder
    assert not any(path.endswith("DownloadDataset") for _, path, _ in kaggle.asked[asked:]), "nothing is fetched twice"


def test_broken_kaggle_download_resumes(kaggle, tmp_path):
    kaggle.cut = [5000]
    with pytest.raises(TransferError, match=r"Kaggle .*broke off.*the same command resumes"):
        fetch("kaggle", tmp_path / "cache")
    assert len(recognise(fetch("kaggle", tmp_path / "cache"), tmp_path / "cache").images) == 30
    assert "bytes=" in str([headers.get("Range") for _, _, headers in kaggle.asked])


def test_wrong_bytes_from_kaggle_are_deleted(kaggle, tmp_path):
    path = "/v1/datasets.DatasetApiService/DownloadDataset"
    kaggle.routes[path] = (200, kaggle.routes[path][1], b"other bytes" * 100)
    with pytest.raises(TransferError, match="does not have its checksum, and was deleted"):
        fetch("kaggle", tmp_path / "cache")
    assert not [file for file in (tmp_path / "kagglehub").rglob("*") if file.is_file()]


@pytest.mark.parametrize("status", [401, 403])
def test_refused_kaggle_login_has_a_remedy_and_hides_the_key(status, kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    kaggle.routes["/v1/datasets.DatasetApiService/GetDataset"] = (status, {}, b"{}")
    with pytest.raises(AccessError, match=rf"Kaggle refuses access to {KAGGLE} \({status}\).*kaggle.com/settings") as caught:
        fetch("kaggle", tmp_path / "cache")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert any(SECRET in headers.get("Authorization", "") for _, _, headers in kaggle.asked), "it was used"


REPO = "someone/chest-xrays"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server):
    """Serve a data set of Hugging Face with class folders: large files under their SHA-256, small ones as git names them."""
    pytest.importorskip("huggingface_hub")
    files = {f"train/NORMAL/IM-{number:04d}-0001.png": png(number) for number in range(3)}
    files |= {"train/PNEUMONIA/person1_virus_1.png": png(9, 300), "README.md": b"not wanted"}
    listing: list[dict[str, Any]] = []
    for name, raw in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
        entry: dict[str, Any] = {
            "type": "file",
            "path": name,
            "rfilename": name,
            "size": len(raw),
            "oid": git,
            "blobId": git,
        }
        if len(raw) > 10_000:
            sha = hashlib.sha256(raw).hexdigest()
            entry["lfs"] = {"oid": sha, "sha256": sha, "size": len(raw), "pointerSize": 130}
        listing.append(entry)
        etag = entry.get("lfs", {}).get("sha256", git)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": SHA}
        server.routes[f"/datasets/{REPO}/resolve/{SHA}/{name}"] = (200, headers, raw)
    answer = {"id": REPO, "sha": SHA, "siblings": listing, "private": False, "tags": [], "downloads": 0, "likes": 0}
    kind = {"Content-Type": "application/json"}
    server.routes[f"/api/datasets/{REPO}"] = (200, kind, json.dumps(answer).encode())
    server.routes[f"/api/datasets/{REPO}/tree/{SHA}"] = (200, kind, json.dumps(listing).encode())
    return server


def from_hub(url: str, cache: Path, repo: str = REPO, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call ``fetch`` in another process, since the client reads its address when it is imported."""
    code = (
        "import sys; from pathlib import Path; from pneumonia.data.sources.downloads import fetch\n"
        "try: print(fetch('huggingface', Path(sys.argv[1]), repo=sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, error); sys.exit(2)"
    )
    command = [sys.executable, "-c", code, str(cache), repo]
    settings = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=False)


def test_hugging_face_images_are_fetched_by_its_client(hub, tmp_path):
    done = from_hub(hub.url, tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "cache" / "downloads" / "huggingface" / "someone--chest-xrays"
    release = recognise(folder, tmp_path / "cache")
    assert {item.image_id for item in release.images} == {
        "IM-0000-0001",
        "IM-0001-0001",
        "IM-0002-0001",
        "person1_virus_1",
    }
    assert not (folder / "README.md").exists()
    hub.asked.clear()
    assert from_hub(hub.url, tmp_path / "cache").returncode == 0
    assert not [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path], "nothing is fetched twice"


def test_hugging_face_file_with_wrong_bytes_is_deleted(hub, tmp_path):
    for name in ("train/PNEUMONIA/person1_virus_1.png", "train/NORMAL/IM-0001-0001.png"):
        path = f"/datasets/{REPO}/resolve/{SHA}/{name}"
        status, headers, raw = hub.routes[path]
        hub.routes[path] = (status, headers, raw[:-1] + b"x")
    done = from_hub(hub.url, tmp_path / "cache")
    assert done.returncode == 2
    assert "TransferError 2 of 4 files from Hugging Face differ from its listing" in done.stdout
    assert "person1_virus_1.png has another checksum" in done.stdout
    folder = tmp_path / "cache" / "downloads" / "huggingface" / "someone--chest-xrays"
    assert sorted(path.name for path in folder.glob("train/*/*.png")) == ["IM-0000-0001.png", "IM-0002-0001.png"]


def test_incomplete_hugging_face_copy_is_refused(hub, tmp_path):
    """The client then returns the folder unchanged, with a warning."""
    assert from_hub(hub.url, tmp_path / "cache").returncode == 0
    folder = tmp_path / "cache" / "downloads" / "huggingface" / "someone--chest-xrays"
    (folder / "train" / "NORMAL" / "IM-0001-0001.png").unlink()
    shutil.rmtree(folder / ".cache")
    hub.routes[f"/api/datasets/{REPO}/tree/{SHA}"] = (400, {}, b"{}")
    done = from_hub(hub.url, tmp_path / "cache")
    assert done.returncode == 2
    assert "1 of 4 files from Hugging Face differ from its listing: train/NORMAL/IM-0001-0001.png is missing" in done.stdout


@pytest.mark.parametrize(
    ("repo", "headers", "status", "message"),
    [
        (
            "someone/gone",
            {"X-Error-Code": "RepoNotFound"},
            404,
            "AccessError Hugging Face shows no data set someone/gone",
        ),
        ("someone/gated", {"X-Error-Code": "GatedRepo"}, 403, "AccessError The data set someone/gated is gated"),
        ("someone/shut", {}, 403, r"AccessError Hugging Face refuses the login (403)"),
        ("no name", {}, 200, "ConfigError --repo no name names no data set"),
        ("../x", {}, 200, "ConfigError --repo ../x names no data set"),
    ],
)
def test_unavailable_data_set_has_a_remedy(repo, headers, status, message, hub, tmp_path):
    hub.routes[f"/api/datasets/{repo}"] = (status, headers, b"{}")
    done = from_hub(hub.url, tmp_path / "cache", repo, HF_TOKEN=SECRET)
    assert done.returncode == 2
    assert message in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_without_any_network_each_host_says_so_soon(tmp_path):
    """Names are not resolved, as on a machine that is not connected."""
    code = (
        "import socket, sys; from pathlib import Path\n"
        "def refuse(*a, **k): raise socket.gaierror(-2, 'Name or service not known')\n"
        "socket.getaddrinfo = refuse\n"
        "from pneumonia.data.sources.downloads import fetch\n"
        "from pneumonia.errors import TransferError\n"
        "for host in ('kaggle', 'huggingface', 'medmnist'):\n"
        "    try: fetch(host, Path(sys.argv[1]))\n"
        "    except TransferError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for host, line in zip(("Kaggle", "Hugging Face", "zenodo.org"), lines, strict=True):
        assert line.startswith(f"{host} can't be reached, or broke off (")
        assert "HTTPS_PROXY" in line


@pytest.mark.parametrize("host", ["kaggle", "huggingface", "medmnist"])
def test_missing_client_has_a_remedy(host, tmp_path, monkeypatch):
    for name in ("kagglehub", "huggingface_hub", "medmnist"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r'--from needs the package .* Install it with: pip install "pneumonia\[download\]"'):
        fetch(host, tmp_path)
