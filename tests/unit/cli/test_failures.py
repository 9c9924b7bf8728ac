"""What `failures` prints."""

from __future__ import annotations

import pytest

from eventcore.cli.failures import REASONS
from eventcore.model import DiscardReason


@pytest.mark.parametrize("reason", DiscardReason)
def test_every_reason_is_explained(reason: DiscardReason) -> None:
    assert REASONS[reason.value]
