"""F-8: a logout or a login, in every idiom, against readers and writers in flight.

A seed is a schedule, and every store gets the same thousand. With STORM_REQUESTS=100 in the
environment the slow stores get a hundred requests a schedule, too; that takes ten minutes more.
"""

from __future__ import annotations

import os

import pytest
from faults.storm import Storm, Tally

from async_session import SessionStore

pytestmark = [pytest.mark.anyio, pytest.mark.faults, pytest.mark.timeout(900)]

SCHEDULES = 1000
#: Requests in flight in a schedule, where it is not a hundred: SQL, and the two emulators.
FEWER = {"dynamodb": 8, "mongodb": 20, "postgresql": 20, "sqlite": 20}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_nothing_undoes_an_end(
    any_store: SessionStore, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    name = request.node.callspec.params["made_store"]
    in_flight = int(os.environ.get("STORM_REQUESTS", FEWER.get(name, 100)))
    guarded, blind = Tally(), Tally()
    storm = Storm(any_store, guarded, requests=in_flight)
    for seed in range(SCHEDULES):
        await storm.run(seed)
    # The same seeds, where nothing guards a write, show that these schedules would undo it.
    storm = Storm(any_store, blind, requests=in_flight, blind=True)
    for seed in range(SCHEDULES):
        if blind.resurrections < 50:
            await storm.run(seed)
    with capsys.disabled():
        print(f"\n{name}, {in_flight} in flight: {guarded}; with Match.ANY: {blind}")
    assert (guarded.resurrections, guarded.cookies) == (0, 0)
    assert guarded.overlapped > SCHEDULES / 2
    assert blind.resurrections >= 50
