"""Hints can be typed as they are."""

from __future__ import annotations

import pytest

from eventcore.cli.options import Options


@pytest.mark.parametrize(
    ("options", "hint", "repeated"),
    [
        (Options(), "eventcore failures ls", "eventcore failures ls"),
        (Options(config="shop"), "then: eventcore failures retry 1", "then: eventcore -c shop failures retry 1"),
        (Options(config="shop:app", state="a b"), "eventcore logs", "eventcore -c shop:app --state 'a b' logs"),
        (Options(config="shop"), "eventcore stream shards s", "eventcore -c shop stream shards s"),
        (Options(config="shop"), "eventcore init", "eventcore init"),
        (Options(config="shop"), "eventcore has a defect", "eventcore has a defect"),
    ],
)
def test_a_hint_repeats_the_pipeline_and_the_state_that_were_given(options: Options, hint: str, repeated: str) -> None:
    assert options.repeat_in(hint) == repeated
