"""The demos, on real servers, as an HTTP client sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from demos import count_shown, serving

COMBINATIONS = [
    (name, server) for name in ("fastapi", "quart") for server in ("uvicorn", "hypercorn")
]


@dataclass
class Demo:
    address: str
    sessions: Path

    def visitor(self, cookie: str | None = None) -> httpx.Client:
        """Return a client with a cookie jar of its own."""
        cookies = None if cookie is None else {"session": cookie}
        return httpx.Client(base_url=self.address, follow_redirects=True, cookies=cookies)

    def records(self) -> int:
        return sum(path.is_file() for path in self.sessions.rglob("*"))


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    name, server = request.param
    directory = tmp_path_factory.mktemp("demo")
    with serving(name, server, directory) as address:
        yield Demo(address, directory / "sessions")


@pytest.fixture
def visitor(demo: Demo) -> Iterator[httpx.Client]:
    with demo.visitor() as client:
        yield client


def latest_calls(client: httpx.Client) -> list[str]:
    """Return the verbs of the store calls that the request before this one made."""
    _top, _this_page, latest, *_ = client.get("/under-the-hood").text.split('class="request"')
    return re.findall(r"<code><b>(open|save|delete)</b>", latest)


def notes_shown(page: str) -> list[str]:
    return re.findall(r"<li>([^<]*)</li>", page)


def test_a_stranger_gets_no_cookie_and_makes_no_store_call(demo: Demo, visitor: httpx.Client):
    before = demo.records()
    response = visitor.get("/")
    assert "Hello, stranger" in response.text
    assert "set-cookie" not in response.headers
    assert latest_calls(visitor) == []
    assert demo.records() == before


def test_the_whole_way_of_a_visitor(demo: Demo, visitor: httpx.Client):
    # A session begins with the first thing worth remembering.
    page = visitor.post("/count")
    assert page.url.path == "/"
    assert count_shown(page.text) == 1
    anonymous = visitor.cookies["session"]

    # Signing in gives it a new id; what was remembered comes along; the message shows once.
    page = visitor.post("/sign-in", data={"name": "  Ada <b> "})
    signed_in = visitor.cookies["session"]
    assert signed_in.split(".")[0] != anonymous.split(".")[0]
    assert "Hello, Ada &lt;b&gt;." in page.text
    assert count_shown(page.text) == 1
    assert "Your session has just got a new id" in page.text
    assert "Your session has just got a new id" not in visitor.get("/").text
    with demo.visitor(anonymous) as planted:
        assert "stranger" in planted.get("/").text

    # A list that is changed in place is stored, and read again by the next request.
    visitor.post("/notes", data={"note": "oat milk"})
    page = visitor.post("/notes", data={"note": "bread & butter"})
    assert notes_shown(page.text) == ["oat milk", "bread &amp; butter"]
    assert count_shown(visitor.post("/count").text) == 2

    # Nothing but reading: one call.
    visitor.get("/")
    assert latest_calls(visitor) == ["open"]

    # Signing out ends it, for this client and for any copy of its cookie.
    response = visitor.post("/sign-out", follow_redirects=False)
    assert response.status_code == 303
    assert response.headers["set-cookie"].startswith("session=; Expires=Thu, 01 Jan 1970")
    assert latest_calls(visitor) == ["open", "save"]
    page = visitor.get("/?signed_out=1")
    assert "You are signed out" in page.text
    assert "stranger" in page.text
    with demo.visitor(signed_in) as replaying:
        page = replaying.get("/")
        assert "stranger" in page.text
        assert "set-cookie" not in page.headers
        assert "it opens nothing" in replaying.get("/under-the-hood").text


def test_a_change_in_place_is_one_read_and_one_write(visitor: httpx.Client):
    visitor.post("/notes", data={"note": "one"})
    response = visitor.post("/notes", data={"note": "two"}, follow_redirects=False)
    assert "set-cookie" not in response.headers
    assert latest_calls(visitor) == ["open", "save"]


def test_clicks_at_the_same_moment_all_count(demo: Demo, visitor: httpx.Client):
    visitor.post("/count")
    cookie = visitor.cookies["session"]

    def click(number: int) -> None:
        with demo.visitor(cookie) as tab:
            tab.post("/count", follow_redirects=False)
            tab.post("/notes", data={"note": f"note {number}"}, follow_redirects=False)

    with ThreadPoolExecutor(8) as tabs:
        list(tabs.map(click, range(8)))
    page = visitor.get("/").text
    assert count_shown(page) == 9
    assert sorted(notes_shown(page)) == [f"note {number}" for number in range(8)]


def test_under_the_hood_shows_the_record_and_never_the_whole_cookie(
    demo: Demo, visitor: httpx.Client
):
    visitor.post("/sign-in", data={"name": "Grace"})
    page = visitor.get("/under-the-hood").text
    session_id, signature = visitor.cookies["session"].split(".")
    assert session_id[:5] in page
    assert signature[:5] in page
    assert session_id[:12] not in page
    assert signature[:12] not in page
    handles = set(re.findall(r"[0-9a-f]{64}", page))
    (handle,) = {handle for handle in handles if f"sessions/{handle[:2]}/" in page}
    content = (demo.sessions / handle[:2] / handle).read_bytes()
    assert f"{len(content)} bytes" in page
    assert content[1:16].hex() in page
    assert "SameSite" in page
    assert "&#34;name&#34;: &#34;Grace&#34;" in page


def test_signing_in_twice_ends_the_first_id(demo: Demo, visitor: httpx.Client):
    visitor.post("/sign-in", data={"name": "Ada"})
    first = visitor.cookies["session"]
    visitor.post("/sign-in", data={"name": "Grace"})
    assert visitor.cookies["session"] != first
    with demo.visitor(first) as replaying:
        assert "stranger" in replaying.get("/").text


@pytest.mark.parametrize("cookie", ["", "x", "a" * 43 + "." + "b" * 43, "\x7f;;=", "ä" * 50])
def test_a_forged_cookie_is_a_stranger_and_asks_no_store(demo: Demo, cookie: str):
    headers = {b"Cookie": b"session=" + cookie.encode()}
    with demo.visitor() as forger:
        response = forger.get("/", headers=headers)
        assert response.status_code == 200
        assert "set-cookie" not in response.headers
        assert latest_calls(forger) == []


def test_a_deleted_file_is_a_stranger(demo: Demo, visitor: httpx.Client):
    visitor.post("/sign-in", data={"name": "Ada"})
    page = visitor.get("/under-the-hood").text
    for handle in re.findall(r"[0-9a-f]{64}", page):
        (demo.sessions / handle[:2] / handle).unlink(missing_ok=True)
    assert "stranger" in visitor.get("/").text
    assert "it opens nothing" in visitor.get("/under-the-hood").text


@pytest.mark.parametrize("path", ["/sign-in", "/notes"])
@pytest.mark.parametrize("text", ["", "   ", None])
def test_an_empty_form_is_answered_kindly(visitor: httpx.Client, path: str, text: str | None):
    data = None if text is None else {"name": text, "note": text}
    response = visitor.post(path, data=data)
    assert response.status_code == 200
    assert "Hello, stranger" in response.text


def test_notes_are_bounded(visitor: httpx.Client):
    for number in range(12):
        visitor.post("/notes", data={"note": f"{number} " + "x" * 500})
    page = visitor.post("/notes", data={"note": "one too many"}).text
    assert "12 notes are enough" in page
    assert all(len(note) == 100 for note in notes_shown(page))


def test_things_change_by_post_only(visitor: httpx.Client):
    for path in ("/count", "/notes", "/sign-in", "/sign-out"):
        assert visitor.get(path).status_code == 405


def test_while_the_store_is_away_nobody_is_signed_out(demo: Demo, visitor: httpx.Client):
    visitor.post("/sign-in", data={"name": "Ada"})
    away = demo.sessions.with_name("away")
    demo.sessions.rename(away)
    try:
        for response in (visitor.get("/"), visitor.post("/count"), visitor.post("/sign-out")):
            assert response.status_code == 503
            assert "You are not signed out" in response.text
            assert response.headers["retry-after"] == "5"
            assert "set-cookie" not in response.headers
    finally:
        away.rename(demo.sessions)
    assert "Hello, Ada" in visitor.get("/").text


def test_what_cannot_be_written_is_not_told_to_be(demo: Demo, visitor: httpx.Client):
    # A file in the place of each directory: unlike permissions, that stops root as well.
    away = demo.sessions.with_name("away")
    demo.sessions.rename(away)
    demo.sessions.mkdir()
    try:
        for number in range(256):
            (demo.sessions / f"{number:02x}").touch()
        response = visitor.post("/sign-in", data={"name": "Ada"})
        assert response.status_code == 503
        assert "store is unavailable" in response.text or "was saved" in response.text
        assert "set-cookie" not in response.headers
    finally:
        for path in demo.sessions.iterdir():
            path.unlink()
        demo.sessions.rmdir()
        away.rename(demo.sessions)


def test_both_demos_share_a_login(tmp_path: Path):
    with (
        serving("fastapi", "uvicorn", tmp_path) as fastapi,
        serving("quart", "hypercorn", tmp_path) as quart,
        httpx.Client(follow_redirects=True) as visitor,  # to which both are one host
    ):
        visitor.post(fastapi + "/sign-in", data={"name": "Ada"}, follow_redirects=False)
        page = visitor.get(quart + "/").text  # with the other's flash message
        assert "Welcome, Ada!" in page
        assert "Hello, Ada." in page
        visitor.post(quart + "/notes", data={"note": "from Quart"})
        visitor.post(quart + "/notes", data={"note": ""})
        assert "from Quart" in visitor.get(fastapi + "/").text
        signed_in = visitor.cookies["session"]
        visitor.post(fastapi + "/sign-out")
        replayed = httpx.get(quart + "/", headers={"Cookie": f"session={signed_in}"})
        assert "stranger" in replayed.text
