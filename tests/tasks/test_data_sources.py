"""Where data come from: this machine first, then a download that is checked, else one message that says what to do."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from largebatch.tasks import _sources as sources
from largebatch.tasks._sources import Source, data_home

FILES = {"a.gz": b"alpha", "b.gz": b"beta"}
MD5 = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if name.startswith("slow"):
            time.sleep(1)
            return
        self.send_response(200 if name in FILES else 404)
        self.end_headers()
        self.wfile.write(FILES.get(name, b""))

    def log_message(self, format: str, *args: object) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    httpd.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LARGEBATCH_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def _url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def test_the_data_home_is_the_variable_or_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGEBATCH_DATA", "~/sets")
    assert data_home() == Path.home() / "sets"
    monkeypatch.delenv("LARGEBATCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/tmp/cache")
    assert data_home().name == "largebatch"


def test_the_data_home_comes_before_the_package_and_that_before_a_download(home: Path, tmp_path: Path) -> None:
    package_folder = tmp_path / "package"
    source = Source("set", dict(MD5), url="http://unused.invalid/", package_folder=package_folder)
    assert source.find() is None
    package_folder.mkdir()
    for name in FILES:
        (package_folder / name).touch()
    assert source.locate() == package_folder
    (home / "set").mkdir(parents=True)
    (home / "set" / "a.gz").touch()
    assert source.find() == package_folder  # the data home lacks a file
    (home / "set" / "b.gz").touch()
    assert source.locate() == home / "set"


def test_unpacked_files_stand_in_for_the_archive(home: Path) -> None:
    source = Source("set", {"set.tar.gz": "0"}, unpacked=("one", "two"))
    (home / "set" / "one").mkdir(parents=True)
    assert source.find() is None
    (home / "set" / "two").mkdir()
    assert source.find() == home / "set"


def test_only_what_is_missing_is_downloaded(server: ThreadingHTTPServer, home: Path) -> None:
    (home / "set").mkdir(parents=True)
    (home / "set" / "a.gz").write_bytes(b"brought along")
    source = Source("set", dict(MD5), url=_url(server))
    assert source.locate() == home / "set"
    assert (home / "set" / "b.gz").read_bytes() == b"beta"
    assert (home / "set" / "a.gz").read_bytes() == b"brought along"
    assert server.requested == ["/b.gz"]  # type: ignore[attr-defined]


def test_a_wrong_hash_is_an_error_with_both_hashes_and_leaves_no_file(server: ThreadingHTTPServer, home: Path) -> None:
    wrong = "0" * 32
    with pytest.raises(ValueError, match="does not match the known hash") as caught:
        Source("set", {"a.gz": wrong}, url=_url(server)).locate()
    assert wrong in str(caught.value)
    assert MD5["a.gz"] in str(caught.value)
    assert list((home / "set").iterdir()) == []


def test_a_file_that_the_server_lacks_is_reported_with_its_address(server: ThreadingHTTPServer, home: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"tried .*home/set; http://127.*/c\.gz \(HTTPError: 404.*connect to the network"
    ):
        Source("set", {"c.gz": "0" * 32}, url=_url(server)).locate()
    assert list((home / "set").iterdir()) == []


def test_a_host_that_is_not_there_is_reported_at_once() -> None:
    with pytest.raises(FileNotFoundError, match=r"http://127\.0\.0\.1:1/a\.gz \(ConnectionError: "):
        Source("set", {"a.gz": "0" * 32}, url="http://127.0.0.1:1/").locate()


def test_a_server_that_does_not_answer_is_given_up(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_TIMEOUT_SECONDS", (0.2, 0.2))
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=r"slow\.gz \(ReadTimeout: "):
        Source("set", {"slow.gz": "0" * 32}, url=_url(server)).locate()
    assert time.perf_counter() - started < 1.5


def test_missing_data_say_what_was_tried_and_what_helps(home: Path, tmp_path: Path) -> None:
    source = Source("set", {"a.gz": "0"}, package="dataset-set", package_folder=tmp_path / "package")
    with pytest.raises(FileNotFoundError) as caught:
        source.locate()
    assert str(caught.value) == (
        f"the set data are not on this machine: expected a.gz; tried {home}/set; {tmp_path}/package; "
        f"apt install dataset-set; or put a.gz into {home}/set (LARGEBATCH_DATA sets the folder above it)"
    )
