"""Updates of loaded sessions: what several requests did to one session, merged and saved once.

Writers of one session in one event loop take turns (`turns.py`). Who writes alone costs one guarded
save. Those who had to wait are merged, one on top of the other, and saved together: a thousand
writers cost a few saves. Each gets its own answer, and a resolver that raises fails the one writer
whose value it was asked about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from async_session._aio import pause, run_to_completion
from async_session.errors import SerializationError, StoreError, StoreUnavailable
from async_session.guarded import STORED, Found, GuardedWrites, Stored, came_after
from async_session.record import Record
from async_session.session import Origin, Session
from async_session.turns import Line, Turns
from async_session.writers import Writer, conflict, merged

__all__ = ["Updates"]

_Saving: TypeAlias = Coroutine[object, object, Found | Stored]

#: How often a refused write is tried again; the deadline usually comes first.
_TRIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates(GuardedWrites):
    """Writes changes to sessions that were loaded."""

    turns: Turns[Writer] = field(default_factory=Turns, init=False)

    async def update(self, session: Session, origin: Origin, payload: bytes) -> bool:
        """Write a loaded session; return False if it was ended meanwhile."""
        writer = Writer(session, origin, payload)
        line = self.turns.enter(origin.key, writer)
        if line is None:
            return await self.safely(self._wait(writer))
        if not self.prompt or origin.stored is not None:
            return await self.safely(self._serve(line, writer))
        # Nearly always one call of the store is all, and needs no task of its own.
        key, match = origin.key, origin.version
        assert match is not None
        began = time.monotonic()
        record, data = self._record(session, payload, self.codec.id)
        ttl = self._ttl(session, record)
        try:
            if await self.store.save(key, data, ttl=ttl, match=match):
                self._kept(line, [writer], record)
                self.turns.leave(line)
                return True
            rest = self._look(key, data, ttl=ttl, match=match, lost=None)
        except StoreUnavailable as error:
            rest = self._look(key, data, ttl=ttl, match=match, lost=error)
        except asyncio.CancelledError:
            # The write takes place all the same. Made again it finds itself, or who was first.
            again = self._noted(line, [writer], record, self._put(key, data, ttl=ttl, match=match))
            with suppress(Exception):  # the cancellation comes first
                await self.safely(self._serve(line, writer, again), began=began)
            raise
        except BaseException:
            self.turns.leave(line)
            raise
        rest = self._noted(line, [writer], record, rest)
        return await self.safely(self._serve(line, writer, rest), began=began)

    async def _wait(self, writer: Writer) -> bool:
        waiting = self.turns.wait(writer.origin.key, writer)
        line = await (run_to_completion(waiting) if self.instant else waiting)
        return await self._serve(line, writer)

    async def _serve(
        self, line: Line[Writer] | None, writer: Writer, first_save: _Saving | None = None
    ) -> bool:
        """Write for those whom the line serves, if it is our turn; return what became of ours."""
        if line is not None:
            try:
                await self._lead(line, first_save)
            except BaseException as error:
                for other in line.served:
                    other.end(error=_shared(error))
                raise
            finally:
                self.turns.leave(line)
        return writer.result()

    async def _lead(self, line: Line[Writer], first_save: _Saving | None) -> None:
        writers = line.served
        first = writers[0]
        there: Found | Stored
        if first_save is not None:
            there = await first_save
        elif len(writers) > 1 or line.stored is not None or first.origin.stored is not None:
            there = line.stored or writers[-1].claim()
        else:  # nearly always: alone, on top of what was read
            assert first.origin.version is not None
            there = await self._save(line, writers, first.payload, match=first.origin.version)
        if isinstance(there, Stored):
            return
        if self.instant and isinstance(there, Record):
            await run_to_completion(self._write_together(line, there))
        else:
            await self._write(line, writers, there)

    async def _write_together(self, line: Line[Writer], found: Found) -> None:
        await pause()  # on a store that never waits nobody else has run yet: let them come
        line.serve_all()
        await self._write(line, line.served, found)

    async def _write(self, line: Line[Writer], writers: list[Writer], found: Found) -> None:
        """Save what all of them did, on top of `found` or whatever there is."""
        for _ in range(_TRIES):
            left = [writer for writer in writers if not writer.done]
            if not left:
                return
            try:
                outcome = await self._try(line, left, found)
            except SerializationError as error:
                if len(left) == 1:
                    left[0].end(error=error)
                    return
                # Too much for one session: as many as there is room for.
                half = len(left) // 2
                await self._write(line, left[:half], found)
                await self._write(line, left[half:], line.stored or found)
                return
            if isinstance(outcome, Stored):
                return
            found = outcome
        for writer in writers:
            writer.end(error=conflict(writer.session, writer.origin.key))

    async def _try(self, line: Line[Writer], writers: list[Writer], found: Found) -> Found | Stored:
        """Save once what all of them did, on top of `found`; return what there is instead."""
        if not isinstance(found, Record):
            for writer in writers:
                writer.end(kept=self._dropped(writer.session, writer.origin, found))
            return found
        payload = merged(writers, found, policy=self.policy, codec=self.codec)
        writers = [writer for writer in writers if not writer.done]
        if not writers:
            return STORED
        after = came_after(found)
        return await self._save(line, writers, payload, match=found.version, after=after)

    async def _save(
        self,
        line: Line[Writer],
        writers: list[Writer],
        payload: bytes,
        *,
        match: bytes,
        after: Sequence[str] = (),
    ) -> Found | Stored:
        first = writers[0].session
        record, data = self._record(first, payload, self.codec.id, after=after)
        ttl = self._ttl(first, record)
        saving = self._put(writers[0].origin.key, data, ttl=ttl, match=match)
        return await self._noted(line, writers, record, saving)

    async def _noted(
        self, line: Line[Writer], writers: list[Writer], record: Record, saving: _Saving
    ) -> Found | Stored:
        """Wait for a save; remember what is stored now, if it was made."""
        there = await saving
        if there is STORED:
            self._kept(line, writers, record)
        return there

    def _kept(self, line: Line[Writer], writers: list[Writer], record: Record) -> None:
        line.stored = record
        lifetime = writers[0].session._lifetime
        for writer in writers:
            writer.session.created = record.created
            writer.session._lifetime = lifetime
            self._adopt(writer.session, writer.origin.id, record, writer.payload)
            writer.end(kept=True)


def _shared(error: BaseException) -> Exception:
    """Return an error for a writer whose write went with another's, and failed with it."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)
    if isinstance(error, Exception):
        return error
    return StoreUnavailable("the session store did not answer in time")
