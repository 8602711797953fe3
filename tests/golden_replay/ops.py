"""The little language of the recordings: what a view, a hook or a websocket does to its session.

One interpreter for Flask, Quart and Starlette. An op is a list: its name, then its arguments. What
it reads is noted as `repr`; a KeyError is noted by its name; anything else leaves the view.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from inspect import isawaitable
from typing import Any
from uuid import UUID

from markupsafe import Markup

__all__ = ["READS", "WRITES", "Framework", "Stage", "at_once", "python", "reads_data"]

Op = Sequence[Any]


def python(source: str) -> Any:
    """Evaluate Python from a recording, which comes with this repository."""
    names = [UUID, datetime, date, time, timedelta, timezone, Decimal, Markup]
    return eval(source, {cls.__name__: cls for cls in names})


def _update(session: Any, *args: Any) -> None:
    """Update by a mapping; a second one stands for keyword arguments."""
    session.update(*args[:1], **(args[1] if len(args) > 1 else {}))


def _ior(session: Any, other: Any) -> None:
    session |= other


#: Ops whose result is seen.
READS: dict[str, Callable[..., Any]] = {
    "get": lambda session, *args: session.get(*args),
    "getitem": operator.getitem,
    "pop": lambda session, *args: session.pop(*args),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session, *args: session.setdefault(*args),
    "read": getattr,
    "in": operator.contains,
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda session: list(reversed(session)),
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "items": lambda session: list(session.items()),
    "dict": dict,
    "or": operator.or_,
    "eq": operator.eq,
    "ne": operator.ne,
}

#: Ops that are only done. (What `repr` and `copy` return is the framework's own.)
WRITES: dict[str, Callable[..., Any]] = {
    "set": operator.setitem,
    "setpy": lambda session, key, value: operator.setitem(session, python(key), python(value)),
    "del": operator.delitem,
    "clear": lambda session: session.clear(),
    "update": _update,
    "ior": _ior,
    "append": lambda session, key, value: session[key].append(value),
    "permanent": lambda session, value: setattr(session, "permanent", value),
    "modified": lambda session, value: setattr(session, "modified", value),
    "accessed": lambda session, value: setattr(session, "accessed", value),
    "repr": repr,
    "copy": lambda session: session.copy(),
}


def reads_data(op: Op) -> bool:
    """Tell whether an op looks at the session's data, and not only at the object or its flags."""
    if op[0] == "read":
        return op[1] not in {"modified", "accessed"}
    return op[0] not in {"modified", "accessed", "touch_proxy", "raise"}


class OnPurpose(Exception):
    """What the op "raise" raises."""


@dataclass(frozen=True)
class Framework:
    """What the ops need of a framework besides the session."""

    flash: Callable[[str], Any] | None = None
    flashed: Callable[[], Any] | None = None
    #: look through the proxy `session`, and do nothing more
    touch: Callable[[Any], Any] = id


@dataclass
class Stage:
    """Where a replay and the app under test meet: the step under way, and what its ops saw."""

    framework: Framework = field(default_factory=Framework)
    step: dict[str, Any] = field(default_factory=dict)
    saw: list[str] = field(default_factory=list)
    #: the ops that ran before the session was saved
    done: list[Op] = field(default_factory=list)

    def enter(self, step: dict[str, Any]) -> None:
        """Begin a step."""
        self.step, self.saw, self.done = step, [], []

    @property
    def reply(self) -> dict[str, Any]:
        return self.step.get("reply") or {}

    def template(self) -> str:
        """Return the template to render. One that says "session" reads it."""
        source = str(self.reply.get("template", "{{ 6 * 7 }}"))
        if "session" in source:
            self.done.append(["get"])
        return source

    async def act(self, phase: str, session: Callable[[], Any]) -> None:
        """Run the step's ops for a phase, noting what they saw.

        Args:
            phase: "ops", "before", "after", "teardown", "error"; "stream" while the body is sent.
            session: gets the session as a view does; called by each op that wants it.
        """
        ops = self.reply.get("ops") if phase == "stream" else self.step.get(phase)
        for op in ops or ():
            if phase not in {"teardown", "stream"}:
                self.done.append(op)
            try:
                await self.run(op, session)
            except Exception as error:
                # Where no framework says what becomes of an exception, there is none.
                if phase not in {"teardown", "error", "stream"}:
                    raise
                self.saw.append(type(error).__name__)

    async def run(self, op: Op, session: Callable[[], Any]) -> None:
        name, *args = copy.deepcopy(op)  # an app may change what it was given
        try:
            if name in READS:
                self.saw.append(repr(READS[name](session(), *args)))
            elif name in WRITES:
                WRITES[name](session(), *args)
            elif name == "touch_proxy":
                self.framework.touch(session())
            else:
                await self._special(name, args)
        except KeyError:
            self.saw.append("KeyError")

    async def _special(self, name: str, args: list[Any]) -> None:
        if name == "raise":
            raise OnPurpose
        if name == "flashed":
            self.saw.append(repr(_have(self.framework.flashed)()))
        elif name == "flash":
            await _settle(_have(self.framework.flash)(*args))
        else:
            raise NotImplementedError(f"the op {name!r} is not known: give it a line in ops.py")


def _have(function: Callable[..., Any] | None) -> Callable[..., Any]:
    assert function is not None, "this framework has no such op"
    return function


async def _settle(result: Any | Awaitable[Any]) -> None:
    if isawaitable(result):
        await result


def at_once(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that never really waits: for Flask, which knows no other kind of view."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("an op waited for something")
