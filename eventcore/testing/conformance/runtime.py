"""The kit for `Runtime`: forms of handlers, outcomes, faults, deadlines, logs; isolation where it is claimed.

Subclass `RuntimeConformance` as a class whose name begins with `Test` and say how the runtime is opened. The tests
are plain functions that hand a coroutine to `RuntimeConformance.run`: override it to run them in virtual time.
Nothing here depends on how fast anything is; `runtime_under_test.HAPPENS_WITHIN_S` bounds what has to happen at all.
"""

from __future__ import annotations

from eventcore.testing.conformance.runtime_faults import RuntimeFaults
from eventcore.testing.conformance.runtime_forms import RuntimeForms
from eventcore.testing.conformance.runtime_isolation import RuntimeIsolation
from eventcore.testing.conformance.runtime_under_test import RuntimeUnderTest


class RuntimeConformance(RuntimeForms, RuntimeFaults, RuntimeIsolation):
    """What every runtime keeps; tests of what it does not claim are skipped, by the capability's name."""

    def test_claims_its_capabilities(self) -> None:
        """What the kit was told is what the runtime says of itself."""

        async def scenario(test: RuntimeUnderTest) -> None:
            assert test.runtime.capabilities == self.capabilities

        self.check(scenario)
