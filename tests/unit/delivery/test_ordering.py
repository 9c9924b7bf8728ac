"""A shard's failing work as text: where the checkpoint is kept (design §3, §12)."""

from __future__ import annotations

import pytest

from eventcore.delivery.ordering import EMPTY, STATE_BYTES_MAX, Part, ShardState, decode_state, encode_state


def test_a_state_survives_its_text() -> None:
    state = ShardState(
        parts=(Part(last=7, attempt=3, first_failure_ms=9, request_id="r", marks=1), Part(last=12, is_cut=True)),
        marked=True,
    )
    assert decode_state(encode_state(state)) == state


def test_a_state_of_before_there_were_halves_of_suspects_is_read() -> None:
    part = Part(last=7, attempt=3, first_failure_ms=9, request_id="r", marks=1)
    assert decode_state('[1,[[7,3,9,"r",1]],true]') == ShardState(parts=(part,), marked=True)


def test_an_empty_state_is_empty_text() -> None:
    """Most commits carry none."""
    assert encode_state(EMPTY) == ""
    assert decode_state("") == decode_state(None) == EMPTY


def test_every_split_of_the_largest_batch_fits() -> None:
    """Design §3: the commit's metadata; 10,000 records are split 14 times, and every part has a request id."""
    parts = tuple(
        Part(last=2**62 + index, attempt=10_000, first_failure_ms=2**42, request_id="u" * 36, marks=11)
        for index in range(15)
    )
    state = ShardState(parts=parts, marked=True)
    assert len(encode_state(state)) <= STATE_BYTES_MAX
    assert decode_state(encode_state(state)) == state


def test_parts_that_do_not_fit_are_joined() -> None:
    """They lose their attempts, never a record: the first parts stay as they are, the last one ends where it ended."""
    parts = tuple(Part(last=index + 1, attempt=2, request_id="u" * 36) for index in range(500))
    text = encode_state(ShardState(parts=parts))
    kept = decode_state(text).parts
    assert len(text) <= STATE_BYTES_MAX
    assert len(text) > STATE_BYTES_MAX * 0.9
    assert kept[:-1] == parts[: len(kept) - 1]
    assert kept[-1] == Part(last=500)


@pytest.mark.parametrize("suspect", [Part(last=498, is_cut=True), Part(last=500, marks=1)])
def test_parts_that_are_joined_with_a_suspect_are_one(suspect: Part) -> None:
    parts = [Part(last=index + 1, attempt=2, request_id="u" * 36) for index in range(500)]
    parts[suspect.last - 1] = suspect
    assert decode_state(encode_state(ShardState(parts=tuple(parts)))).parts[-1] == Part(last=500, is_cut=True)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "{}",
        "[",
        "[[[[",
        "[1",
        '["1",[]]',
        "[1,[[]]]",
        '[1,[["a"]]]',
        '[1,[],"yes"]',
        "0",
        "null",
        "\udc80",
        "é",
        "[1,[],false,[],[],null," + "[" * 1_500 + "]" * 1_500 + "]",
    ],
)
def test_text_that_is_not_ours_is_no_state(text: str) -> None:
    """A commit by others clears it (design §3)."""
    assert decode_state(text) == EMPTY


def test_a_newer_version_is_no_state() -> None:
    assert decode_state("[2,[[5]],false]") == EMPTY
    assert decode_state('[2,{"parts":"otherwise"}]') == EMPTY


def test_the_text_is_ascii() -> None:
    """Brokers count bytes."""
    assert encode_state(ShardState(parts=(Part(last=1, request_id="r"),))).isascii()
