"""The demo on Quart: a name, a counter and some notes, remembered in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import quart
from quart import Quart, Response, flash, get_flashed_messages, redirect, render_template, request
from werkzeug.exceptions import InternalServerError
from werkzeug.wrappers import Response as Redirect

from async_session import Session, StoreError
from async_session.quart import QuartSession
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

app = Quart(__name__, template_folder=str(TEMPLATES))
app.config.update(
    SECRET_KEY=secret_key(),
    SESSION_COOKIE_NAME=COOKIE,
    # This demo runs on http://127.0.0.1. Behind HTTPS, which is everywhere else, write True.
    SESSION_COOKIE_SECURE=False,
    # Sent by no form on another site. That, and changing things by POST only, is what keeps this
    # demo's forms safe. Quart, as Flask, sends no SameSite unless told to.
    SESSION_COOKIE_SAMESITE="Lax",
)
QuartSession(app, store=store, policy=POLICY)
app.asgi_app = watch.around(app.asgi_app)  # type: ignore[assignment,method-assign]  # Quart's way
app.after_serving(files.aclose)


#: Quart's own `session`, under its real type: that one has login() and logout().
session = cast("Session", quart.session)


async def page(name: str, *, status: int = 200, **context: object) -> Response:
    context |= {"framework": "Quart", "before": watch.before(), "now": watch.now()}
    # The page is this visitor's: the "back" button after signing out shall not find it.
    headers = {"Cache-Control": "no-store"}
    return Response(await render_template(name, **context), status=status, headers=headers)


def go(to: str) -> Redirect:
    return redirect(to, 303)  # and reloading does not send the form again


@app.get("/")
async def home() -> Response:
    # Only if there are any: looking for some would count as a change.
    messages = get_flashed_messages(with_categories=True) if "_flashes" in session else []
    return await page(
        "home.html",
        session=session,
        messages=messages,
        signed_out="signed_out" in request.args and not session,
        max_name=MAX_NAME,
        max_note=MAX_NOTE,
    )


@app.post("/sign-in")
async def sign_in() -> Redirect:
    if name := clean((await request.form).get("name", ""), MAX_NAME):
        session.login(name)  # a new id; what was remembered so far comes along
        session["name"] = name
        await flash(f"Welcome, {name}! Your session has just got a new id.")
    else:
        await flash("Please tell me a name.", "problem")
    return go("/")


@app.post("/count")
async def count() -> Redirect:
    session["count"] = session.get("count", 0) + 1
    return go("/")


@app.post("/notes")
async def add_note() -> Redirect:
    note = clean((await request.form).get("note", ""), MAX_NOTE)
    if "notes" not in session:
        session["notes"] = []
    if len(session["notes"]) >= MAX_NOTES:
        await flash(f"{MAX_NOTES} notes are enough for a demo.", "problem")
    elif note:
        session["notes"].append(note)  # a change inside the list is noticed, and stored
    return go("/")


@app.post("/sign-out")
async def sign_out() -> Redirect:
    session.logout()
    # No flash: what is written after a logout starts a new session, and this visitor wants none.
    return go("/?signed_out=1")


@app.get("/under-the-hood")
async def under_the_hood() -> Response:
    cookie = request.cookies.get(COOKIE)
    hood = await look(session, cookie=cookie, store=files, watch=watch)
    return await page("hood.html", session=session, hood=hood, sent_cookie=bool(cookie))


@app.errorhandler(StoreError)
async def store_unavailable(error: Exception) -> Response:
    """Answer for a session that cannot be read: its first use in a route raises this."""
    response = await page("sorry.html", status=503)
    response.headers["Retry-After"] = "5"
    return response


@app.errorhandler(500)
async def failed(error: InternalServerError) -> Response:
    """Answer for a session that cannot be written: its route is over when that comes to light."""
    if isinstance(error.original_exception, StoreError):
        return await store_unavailable(error.original_exception)
    return await page("sorry.html", status=500, broken=True)
