"""What is kept of a shard's failing work: which records are tried next, and how often they have been.

A shard has a checkpoint (all before it is settled) and, while something fails, a row of *parts*: adjoining runs of
records that are tried one after another. The first part starts at the checkpoint. Parts are kept where the checkpoint
is kept (embedded: its row; Kafka: the commit's metadata), so that whoever takes the shard goes on with them.
Invariant: parts adjoin, in order, and never overlap.
"""

from __future__ import annotations

import msgspec

from eventcore.model import UNREADABLE_JSON

#: The format's version; a reader that meets a higher one starts the shard's parts afresh.
STATE_VERSION = 1
#: Brokers take 4,096 bytes of commit metadata by default; half of it leaves room for settings below that.
STATE_BYTES_MAX = 2048


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A run of records that are invoked together, and what has happened to it so far."""

    last: int  #: position of its last record; it starts behind the part before it, or at the checkpoint
    attempt: int = 0  #: invocations of exactly these records that have failed
    first_failure_ms: int = 0  #: wall time of the first of them; 0 without one
    request_id: str = ""  #: kept for unchanged retries (Lambda semantics §12); empty before the first
    #: Invocations that were begun and never came back, each found by the next owner: the engine died in them.
    marks: int = 0
    #: It was cut from a batch in which the engine died, and has not come back from an invocation since.
    is_cut: bool = False

    @property
    def is_suspect(self) -> bool:
        """Whether an engine may have died of one of its records."""
        return self.is_cut or self.marks > 0


class LaneState(msgspec.Struct, frozen=True, array_like=True):
    """The same for one key of a shard that has lanes."""

    name: str  #: of the key, see `delivery.lanes.lane_name`
    parts: tuple[Part, ...]
    marked: bool = False
    #: All of the key before it is settled, and its first part starts here: some of that may lie behind the shard's
    #: checkpoint, and comes again.
    first: int = 0


class Window(msgspec.Struct, frozen=True, array_like=True):
    """The open tumbling window of a shard, see `delivery.windows`."""

    start_ms: int
    end_ms: int  #: exclusive
    state: bytes = b"{}"  #: JSON object, what the last invocation returned
    is_early: bool = False  #: its state is too large: it ends before its time
    final: Part = Part(last=-1)  #: what has happened to its final call so far


class ShardState(msgspec.Struct, frozen=True, array_like=True):
    """The parts of one shard that have been tried and are not settled; empty when nothing fails."""

    version: int = STATE_VERSION
    parts: tuple[Part, ...] = ()
    #: The first part, or the window's final call once it has begun, is being invoked right now; found by the next
    #: owner, it means that the engine died there.
    marked: bool = False
    lanes: tuple[LaneState, ...] = ()  #: of a shard with lanes: failing keys
    #: Of a shard with lanes: keys whose records wait elsewhere, each with the position of the first that does.
    parked: tuple[tuple[str, int], ...] = ()
    #: The open window, of sources that keep windows (`StreamCapabilities.keeps_windows`): they write it beside the
    #: state, which has no room for it.
    window: Window | None = None
    #: Names of the parked keys of which all that was found is redriven: their position is behind it, and no record's.
    redriven: tuple[str, ...] = ()


EMPTY = ShardState()

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ShardState)
_window_encoder = msgspec.msgpack.Encoder()
_window_decoder = msgspec.msgpack.Decoder(tuple[int, Window])


def encode_state(state: ShardState) -> str:
    """Return the state, without its window, as ASCII text of at most `STATE_BYTES_MAX` bytes; empty for an empty one.

    Pending parts beyond what fits are joined into the last one that does: they lose their own attempts, never a
    record. So do the last of the lanes; parked keys always fit.
    """
    if state.window is not None:
        state = msgspec.structs.replace(state, window=None)
    if state == EMPTY:
        return ""
    text = _encoder.encode(state)
    while len(text) > STATE_BYTES_MAX and (shorter := _shorten(state)) is not None:
        state = shorter
        text = _encoder.encode(state)
    return text.decode()


def _shorten(state: ShardState) -> ShardState | None:
    """Return a state with one attempt less to remember; None when there is none to leave out."""
    if len(state.parts) > 1:
        return msgspec.structs.replace(state, parts=_join_last(state.parts))
    if not state.lanes:
        return None
    *lanes, last = state.lanes
    if len(last.parts) > 1:
        lanes.append(msgspec.structs.replace(last, parts=_join_last(last.parts)))
    return msgspec.structs.replace(state, lanes=tuple(lanes))


def _join_last(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    *others, one, other = parts
    return (*others, Part(last=other.last, is_cut=one.is_suspect or other.is_suspect))


def encode_window(position: int, window: Window | None) -> bytes:
    """Return a shard's open window and the checkpoint that it belongs to as bytes; none without a window."""
    return b"" if window is None else _window_encoder.encode((position, window))


def decode_window(note: bytes | None, position: int) -> Window | None:
    """Return the window that `encode_window` wrote; None for that of another checkpoint, which was moved by hand."""
    if not note:
        return None
    at, window = _window_decoder.decode(note)
    return window if at == position else None


def decode_state(text: str | None) -> ShardState:
    """Return the state that `encode_state` wrote; an empty one for text that is not ours or of a newer version."""
    if not text:
        return EMPTY
    try:
        state = _decoder.decode(text)
    except UNREADABLE_JSON:
        return EMPTY
    return state if state.version == STATE_VERSION else EMPTY
