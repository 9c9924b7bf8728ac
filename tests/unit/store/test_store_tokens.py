"""Tokens in memory."""

from eventcore.store.memory.tokens import Tokens


def test_tokens_that_are_forgotten_take_no_room():
    """So that idempotency costs no more than its days; a token that was prolonged stays."""
    tokens = Tokens()
    for number in range(100):
        assert tokens.take("s", str(number), now_ms=number, forget_ms=1000 + number)
    tokens.keep("s", "7", 5000)
    assert tokens.take("s", "later", now_ms=1050, forget_ms=9000)
    assert len(tokens._forget_ms) == 51
    assert not tokens.take("s", "7", now_ms=4999, forget_ms=9000)
    assert tokens.take("s", "7", now_ms=5000, forget_ms=9000)
