"""The store contract, as tests: a store is right if it passes.

`StoreConformance` is what every store must do. What only some stores have is a mixin: a class whose
tests a store gets by naming it as one more base. No test is ever skipped.
"""

from __future__ import annotations

from ...stores.base import SessionStore, SupportsSweep
from ._cancellation import CancellationTests
from ._conditions import ConditionTests
from ._shared import SharedStoreConformance, StoreFactory
from ._sweep import SweepConformance
from ._values import ValueTests

__all__ = ["SharedStoreConformance", "StoreConformance", "StoreFactory", "SweepConformance"]


class StoreConformance(ValueTests, ConditionTests, CancellationTests):
    """Every sentence of the store contract as a test. Subclass it and give it one fixture.

    ::

        class TestMyStore(StoreConformance, SharedStoreConformance):
            @pytest.fixture
            def store(self):
                return MyStore("server.example")

            @pytest.fixture
            def factory(self):  # for SharedStoreConformance
                return functools.partial(MyStore, "server.example")

    Add `SharedStoreConformance` if the data can be reached through a second store object, which is
    so for everything but memory; and `SweepConformance` if the store has a `sweep`.

    The tests run on asyncio, under anyio's pytest plugin, which comes with this package. To run
    them on trio as well, override the fixture `anyio_backend` in the class. With
    ``@pytest.mark.asyncio`` on the class they run under pytest-asyncio instead. `store` may be an
    asynchronous fixture of the plugin that is used, and should close the store afterwards. Tests
    use random keys: nothing has to be flushed.
    """

    async def test_a_sweep_is_tested_as_well(self, store: SessionStore) -> None:
        """A store that sweeps is a `SweepConformance`, too."""
        assert isinstance(store, SupportsSweep) == isinstance(self, SweepConformance)
