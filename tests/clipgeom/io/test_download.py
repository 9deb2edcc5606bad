"""The download against a server of our own, which cuts, lies and refuses."""

import errno
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipgeom._io import download as _download
from clipgeom._io.download import DownloadError, cache_folder, fetch

pytest.importorskip("httpx2", reason="downloads need httpx2 (the extra `report`)")
pytest.importorskip("filelock", reason="downloads need filelock (the extra `report`)")

BODY = bytes(range(256)) * 4000
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


@dataclass
class Site:
    """What the server has, and how it misbehaves."""

    body: bytes = BODY
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    shift: int = 0  # answers ranges from so many bytes earlier
    cuts: list[int] = field(default_factory=list)  # bytes sent before the connection drops, one entry an answer
    statuses: list[int] = field(default_factory=list)  # answers before the first good one
    announce: bool = True  # send Content-Length
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(dict(handler.headers))
        if handler.path == "/moved":
            handler.send_response(302)
            handler.send_header("Location", "/file.zip")
            handler.end_headers()
            return
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        first = self._first(handler)
        if first >= len(self.body):
            handler.send_response(416)
            handler.end_headers()
            return
        handler.send_response(206 if first else 200)
        if first:
            first -= self.shift
            handler.send_header("Content-Range", f"bytes {first}-{len(self.body) - 1}/{len(self.body)}")
        if self.announce:
            handler.send_header("Content-Length", str(len(self.body) - first))
        for name, value in (("ETag", self.etag), ("Last-Modified", self.modified)):
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        rest = self.body[first:]
        handler.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)
        handler.close_connection = True

    def _first(self, handler: BaseHTTPRequestHandler) -> int:
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if not wanted or not self.ranges or (condition and condition not in (self.etag, self.modified)):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def asked(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # a client that hangs up early is part of the tests

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_port}/file.zip"
        yield site
        server.shutdown()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.zip"


def get(site: Site, target: Path, *, size: int = len(BODY), checksum: str = MD5, **options: object) -> Path:
    return fetch(site.url, target, size=size, checksum=checksum, sleep=lambda seconds: None, **options)  # type: ignore[arg-type]


def leave_part(target: Path, content: bytes, *, url: str, validator: str) -> None:
    target.parent.mkdir()
    target.with_name("file.zip.part").write_bytes(content)
    target.with_name("file.zip.part.json").write_text(json.dumps({"url": url, "validator": validator}))


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {"file.zip.lock"}


def test_a_file_arrives_whole_and_alone(site: Site, target: Path) -> None:
    assert get(site, target) == target
    assert target.read_bytes() == BODY
    assert leftovers(target) == {"file.zip"}
    assert site.asked() == [None]
    assert site.requests[0]["Accept-Encoding"] == "identity"


def test_a_file_that_is_there_is_not_asked_for(site: Site, target: Path) -> None:
    get(site, target)
    get(site, target)
    assert len(site.requests) == 1


def test_a_file_of_another_size_is_replaced(site: Site, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"old")
    get(site, target)
    assert target.read_bytes() == BODY


def test_a_redirect_is_followed(site: Site, target: Path) -> None:
    site.url = site.url.replace("file.zip", "moved")
    get(site, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("announce", [True, False], ids=["length announced", "length unknown"])
def test_a_cut_connection_is_resumed_where_it_broke(site: Site, target: Path, announce: bool) -> None:
    site.cuts, site.announce = [300_000, 200_000], announce
    get(site, target)
    assert target.read_bytes() == BODY
    assert site.asked() == [None, "bytes=300000-", "bytes=500000-"]
    assert site.requests[1]["If-Range"] == '"v1"'


def test_what_an_earlier_run_left_is_used(site: Site, target: Path) -> None:
    leave_part(target, BODY[:777], url=site.url, validator='"v1"')
    get(site, target)
    assert site.asked() == ["bytes=777-"]
    assert target.read_bytes() == BODY


def test_a_complete_part_needs_no_request(site: Site, target: Path) -> None:
    leave_part(target, BODY, url=site.url, validator='"v1"')
    get(site, target)
    assert site.requests == []
    assert leftovers(target) == {"file.zip"}


def test_halves_of_two_versions_are_not_joined(site: Site, target: Path) -> None:
    leave_part(target, b"x" * 777, url=site.url, validator='"v0"')
    get(site, target)
    assert len(site.requests) == 1  # If-Range failed, so the answer was the whole file
    assert target.read_bytes() == BODY


def test_a_part_of_another_address_is_dropped(site: Site, target: Path) -> None:
    leave_part(target, BODY[:777], url="http://elsewhere/file.zip", validator='"v1"')
    get(site, target)
    assert site.asked() == [None]


def test_a_weak_etag_gives_way_to_the_date(site: Site, target: Path) -> None:
    site.etag, site.modified, site.cuts = 'W/"v1"', "Tue, 10 Jul 2018 00:00:00 GMT", [1000]
    get(site, target)
    assert site.requests[1]["If-Range"] == site.modified


def test_stale_bytes_without_a_validator_are_found_by_the_checksum(site: Site, target: Path) -> None:
    site.etag = None
    leave_part(target, b"x" * 777, url=site.url, validator="")
    get(site, target)
    assert site.asked() == ["bytes=777-", None]
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_starts_over(site: Site, target: Path) -> None:
    site.ranges, site.cuts = False, [300_000]
    get(site, target)
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_that_always_cuts_is_given_up(site: Site, target: Path) -> None:
    site.ranges, site.cuts = False, [300_000] * 50
    with pytest.raises(DownloadError, match=r"cannot be fetched: .*kept"):
        get(site, target)
    assert len(site.requests) < 10


def test_a_range_of_the_servers_own_choice_is_not_appended(site: Site, target: Path) -> None:
    site.shift = 16
    leave_part(target, BODY[:777], url=site.url, validator='"v1"')
    get(site, target)
    assert site.asked() == ["bytes=777-", None]
    assert target.read_bytes() == BODY


def test_416_starts_over(site: Site, target: Path) -> None:
    site.statuses = [416]
    leave_part(target, BODY[:777], url=site.url, validator='"v1"')
    get(site, target)
    assert site.asked() == ["bytes=777-", None]
    assert target.read_bytes() == BODY


def test_a_passing_refusal_is_waited_for_and_the_waits_grow(site: Site, target: Path) -> None:
    waits: list[float] = []
    site.statuses = [503, 429, 500]
    fetch(site.url, target, size=len(BODY), checksum=MD5, sleep=waits.append)
    assert waits == [1, 2, 4]
    assert target.read_bytes() == BODY


def test_a_final_refusal_is_not_repeated(site: Site, target: Path) -> None:
    site.statuses = [404]
    with pytest.raises(DownloadError, match=r"answers 404 Not Found\. Do this instead\."):
        get(site, target, instead="Do this instead.")
    assert len(site.requests) == 1


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(site: Site, target: Path) -> None:
    site.body = BODY[:-1] + b"!"
    with pytest.raises(DownloadError, match=r"checksum md5:.* removed"):
        get(site, target)
    assert leftovers(target) == set()
    assert len(site.requests) == 1


def test_a_wrong_size_is_seen_before_the_body(site: Site, target: Path) -> None:
    with pytest.raises(DownloadError, match="has 1,024,000 bytes, not the expected 1,024,001"):
        get(site, target, size=len(BODY) + 1)
    assert not target.exists()


def test_too_many_bytes_of_unannounced_length_are_removed(site: Site, target: Path) -> None:
    site.announce = False
    with pytest.raises(DownloadError, match="more than the expected 1,000 bytes"):
        get(site, target, size=1000)
    assert leftovers(target) == set()


def test_no_network_is_one_line_with_advice(target: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(
            "http://127.0.0.1:9/file.zip",
            target,
            size=5,
            checksum=MD5,
            instead="Pass the path.",
            sleep=lambda seconds: None,
        )
    assert "connect error" in str(caught.value)
    assert str(caught.value).endswith("Pass the path.")
    assert "\n" not in str(caught.value)


def test_an_address_that_is_no_http_is_refused_at_once(target: Path) -> None:
    with pytest.raises(DownloadError, match="unsupported protocol"):
        fetch("gopher://127.0.0.1/file.zip", target, size=5, checksum=MD5, sleep=lambda seconds: pytest.fail("waited"))


def test_a_full_disk_keeps_what_arrived(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_download.os, "fsync", full)
    with pytest.raises(DownloadError, match=r"disk is full: the file takes 1 MB.*CLIPGEOM_CACHE"):
        get(site, target)
    assert leftovers(target) == {"file.zip.part", "file.zip.part.json"}


def test_a_folder_that_cannot_be_made_is_explained(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be written to .*CLIPGEOM_CACHE"):
        get(site, tmp_path / "file" / "file.zip")


def test_two_at_once_download_once(site: Site, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site.cuts = [300_000]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: get(site, target), range(4)))
    assert target.read_bytes() == BODY
    assert site.asked() == [None, "bytes=300000-"]


def test_progress_is_plain_lines_away_from_a_terminal(
    site: Site, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.cuts = [300_000]
    get(site, target)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "clipgeom: file.zip: 100 % of 1.0 MB"
    assert any("trying again" in line for line in lines)
    assert len(lines) <= 13


def test_progress_is_a_bar_on_a_terminal(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(_download.sys, "stderr", screen)
    get(site, target)
    assert "file.zip: 100%" in screen.getvalue()


def test_the_cache_folder_obeys_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPGEOM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CLIPGEOM_CACHE")
    pytest.importorskip("platformdirs")
    assert cache_folder().is_absolute()
    assert cache_folder().name == "clipgeom"
