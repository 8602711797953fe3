"""The demo on FastAPI: a name, a counter and some notes, remembered in files."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from async_session import Session, StoreError
from async_session.starlette import SessionMiddleware, get_session
from async_session.stores.filesystem import FileSystemStore

# The server runs this file as the module "app": what both demos share is found from the checkout.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from examples.demo_common.describe import look
from examples.demo_common.settings import (
    COOKIE,
    MAX_NAME,
    MAX_NOTE,
    MAX_NOTES,
    POLICY,
    TEMPLATES,
    clean,
    secret_key,
    session_directory,
)
from examples.demo_common.watch import Watch, WatchedStore

files = FileSystemStore(session_directory())
store = WatchedStore(files)
watch = Watch()
templates = Jinja2Templates(TEMPLATES)  # escapes what visitors wrote, as it does by default


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await files.aclose()


app = FastAPI(title="async_session demo", docs_url=None, redoc_url=None, lifespan=lifespan)
app.add_middleware(
    SessionMiddleware,
    secret_key=secret_key(),
    session_cookie=COOKIE,
    store=store,
    policy=POLICY,
    # A session lives for two weeks from its last change. True: from its last use, for a write each.
    refresh_each_request=False,
    # This demo runs on http://127.0.0.1. Behind HTTPS, which is everywhere else, write True.
    https_only=False,
    # same_site="lax" is the default: no form on another site can send this cookie. That, and
    # changing things by POST only, is what keeps this demo's forms safe.
)
app.add_middleware(watch.around)


def page(request: Request, name: str, *, status: int = 200, **context: object) -> HTMLResponse:
    context |= {"framework": "FastAPI", "before": watch.before(), "now": watch.now()}
    # The page is this visitor's: the "back" button after signing out shall not find it.
    headers = {"Cache-Control": "no-store"}
    return templates.TemplateResponse(request, name, context, status_code=status, headers=headers)


def go(to: str) -> RedirectResponse:
    return RedirectResponse(to, status_code=303)  # and reloading does not send the form again


def flash(session: Session, message: str, category: str = "message") -> None:
    """Keep a message for the next page that shows one; Quart's own flash() stores the same."""
    session["_flashes"] = [*session.get("_flashes", []), (category, message)]


@app.get("/")
async def home(request: Request, signed_out: bool = False) -> HTMLResponse:
    session = get_session(request)
    # Only if there are any: a pop() of nothing would still count as a change.
    flashes = session.pop("_flashes") if "_flashes" in session else []
    return page(
        request,
        "home.html",
        session=session,
        messages=[(str(category), str(message)) for category, message in flashes],
        signed_out=signed_out and not session,
        max_name=MAX_NAME,
        max_note=MAX_NOTE,
    )


@app.post("/sign-in")
async def sign_in(request: Request, name: Annotated[str, Form()] = "") -> RedirectResponse:
    session = get_session(request)
    if name := clean(name, MAX_NAME):
        session.login(name)  # a new id; what was remembered so far comes along
        session["name"] = name
        flash(session, f"Welcome, {name}! Your session has just got a new id.")
    else:
        flash(session, "Please tell me a name.", "problem")
    return go("/")


@app.post("/count")
async def count(request: Request) -> RedirectResponse:
    session = get_session(request)
    session["count"] = session.get("count", 0) + 1
    return go("/")


@app.post("/notes")
async def add_note(request: Request, note: Annotated[str, Form()] = "") -> RedirectResponse:
    session = get_session(request)
    if "notes" not in session:
        session["notes"] = []
    if len(session["notes"]) >= MAX_NOTES:
        flash(session, f"{MAX_NOTES} notes are enough for a demo.", "problem")
    elif note := clean(note, MAX_NOTE):
        session["notes"].append(note)  # a change inside the list is noticed, and stored
    return go("/")


@app.post("/sign-out")
async def sign_out(request: Request) -> RedirectResponse:
    get_session(request).logout()
    # No flash: what is written after a logout starts a new session, and this visitor wants none.
    return go("/?signed_out=1")


@app.get("/under-the-hood")
async def under_the_hood(request: Request) -> HTMLResponse:
    session = get_session(request)
    cookie = request.cookies.get(COOKIE)
    hood = await look(session, cookie=cookie, store=files, watch=watch)
    return page(request, "hood.html", session=session, hood=hood, sent_cookie=bool(cookie))


@app.exception_handler(StoreError)
async def store_unavailable(request: Request, error: Exception) -> HTMLResponse:
    """Answer for a session that cannot be read: its first use in a route raises this."""
    response = page(request, "sorry.html", status=503)
    response.headers["Retry-After"] = "5"
    return response


@app.exception_handler(500)
async def failed(request: Request, error: Exception) -> HTMLResponse:
    """Answer for whatever else goes wrong.

    Not for a session that cannot be written: its route is over when that comes to light, and the
    middleware answers 503 itself.
    """
    return page(request, "sorry.html", status=500, broken=True)
