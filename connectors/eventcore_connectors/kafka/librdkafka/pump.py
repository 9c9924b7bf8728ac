"""The thread that owns librdkafka's consumer: it polls without end, and hands records and callbacks to the loop.

librdkafka calls back in whichever thread polls and waits for the answer; its Python object is locked while one thread
is in it, also within a callback. So one thread does everything, and while it waits in a callback for the loop it
answers the questions that the loop has.

A thread of ours and not one of anyio's pool: it lives as long as the member, which no task group spans.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from eventcore.model import Record
from eventcore_connectors.kafka.librdkafka.assignment import Assignment
from eventcore_connectors.kafka.librdkafka.balance import Balance
from eventcore_connectors.kafka.librdkafka.held import Held
from eventcore_connectors.kafka.librdkafka.messages import Message, read_messages, read_topics
from eventcore_connectors.kafka.librdkafka.subscription import Subscription
from eventcore_connectors.kafka.membership import ClientFailed, PartitionsHook
from eventcore_connectors.kafka.shape import Partition

#: One poll waits so long, seconds; questions wait for its end. 50 wake-ups a second are a thousandth of a core.
_POLL_S = 0.02
#: While a callback waits for the loop, it looks so often whether the loop still runs, seconds.
_LOOK_S = 0.5
#: Messages of one round: 3 ms of work, half of it with the interpreter's lock held. Larger rounds mean that the two
#: threads wait for each other less often.
_AT_ONCE = 4_000
#: Errors that do not go away by themselves.
_FAILURES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        # As a message it does not say that it is one.
        KafkaError._FATAL,  # noqa: SLF001
    }
)
#: A topic is not there.
_MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})  # noqa: SLF001

#: What librdkafka says of brokers that do not know KIP-848, within the text of what is fatal.
_TOO_OLD = "ConsumerGroupHeartbeat fatal error: " + KafkaError(KafkaError.UNSUPPORTED_VERSION).str()
_NO_KIP848 = 'the brokers do not speak group_protocol = "consumer", Kafka 4.0 does: write "classic"'

_Answer = TypeVar("_Answer")
#: What the broker has against a commit.
_CommitAnswer: TypeAlias = Future[KafkaError | None]


class _Broker(msgspec.Struct):
    rx: int = 0
    state: str = ""


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker] = {}


class Pump:
    """Reads topics for a group. Life: `open`, `ask` if need be, `begin`, then anything, then `stop`."""

    def __init__(
        self, settings: Mapping[str, Any], subscription: Subscription, wake: Callable[[], None], *, is_incremental: bool
    ) -> None:
        """Start nothing yet.

        Args:
            settings: librdkafka's.
            subscription: says when it is in the group.
            wake: called in the loop when there is something to take.
            is_incremental: whether partitions come and go one by one.
        """
        self.held = Held()
        self.assignment = Assignment(self.held, is_incremental=is_incremental)
        self.answers = 0  #: rises whenever brokers have answered
        self.contacts = 0  #: rises now and then while a broker is connected
        self.ends: dict[Partition, int] = {}  #: by partition, the offset that the next record gets
        self.failure: ClientFailed | None = None
        self._settings = settings
        self._callbacks = {"on_assign": self._on_assigned, "on_revoke": self._on_revoked, "on_lost": self._on_lost}
        self._subscription = subscription
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._hooks: tuple[PartitionsHook, PartitionsHook] | None = None
        self._is_stopping = self._is_in_callback = self._is_closing = False
        self._balance = Balance(self.held, self._loop.time)
        self._questions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        #: Of the commit that librdkafka was given and has not answered; nobody may wait for it any more.
        self._unanswered: _CommitAnswer | None = None
        self._unanswered_partitions: frozenset[Partition] = frozenset()  #: of that commit
        self._next_commit: tuple[int, list[TopicPartition], _CommitAnswer] | None = None  #: it waits for that one
        self._ended: Future[None] | None = None

    # -- called in the loop --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the client, which begins to connect.

        Raises:
            KafkaException: a setting can't be used.
        """
        opened: Future[None] = Future()
        self._ended = Future()
        # A daemon: an interpreter that ends does not wait for a broker that is gone.
        threading.Thread(target=self._run, args=(opened, self._ended), daemon=True, name="librdkafka").start()
        await asyncio.wrap_future(opened)

    def begin(self, on_revoked: PartitionsHook, on_assigned: PartitionsHook) -> None:
        """Join the group and read; hooks run one after the other, in the loop."""
        self._hooks = on_revoked, on_assigned

    async def ask(self, question: Callable[[Consumer], _Answer]) -> _Answer:
        """Have the thread put a question to librdkafka.

        Raises:
            KafkaException: librdkafka's answer.
        """
        answer: Future[_Answer] = Future()
        self._put(lambda: _settle(answer, lambda: question(self._kafka)))
        return await asyncio.wrap_future(answer)

    async def commit(self, generation: int, offsets: list[TopicPartition]) -> KafkaError | None:
        """Commit, after what was committed before, and return what the broker has against it.

        Cancelled, it may still be written: later, but before any that follows outside of a rebalance. Once the client
        closes it is refused.

        Args:
            generation: in which the partitions were taken, or the first of those in which they were.
            offsets: those of partitions that were given up meanwhile are left out.
        """
        if self._is_closing:
            return KafkaError(KafkaError._DESTROY)  # noqa: SLF001
        answer: _CommitAnswer = Future()
        self._put(lambda: self._send_commit(generation, offsets, answer))
        return await asyncio.wrap_future(answer)

    def has_unanswered_commit(self, partition: Partition) -> bool:
        """Tell whether librdkafka has a commit of a partition that it has not answered."""
        return self._unanswered is not None and partition in self._unanswered_partitions

    def _put(self, question: Callable[[], None]) -> None:
        self._questions.put(question)
        self.held.interrupt()

    async def stop(self) -> None:
        """Leave the group; returns when the thread has ended. Calls no hook."""
        self._is_stopping = True
        self.held.interrupt()
        if self._ended is not None:
            await asyncio.wrap_future(self._ended)

    def check(self) -> None:
        """Raise what ended the reading.

        Raises:
            ClientFailed: it does not go away by itself.
        """
        if self.failure is not None:
            raise self.failure
        if self._ended is not None and self._is_stopping:
            raise ClientFailed("reading has ended")

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self, opened: Future[None], ended: Future[None]) -> None:
        try:
            _settle(opened, self._make)
            if opened.exception() is None:
                self._pump()
        finally:
            self._is_stopping = True
            # Whoever waits for it may have given up meanwhile.
            with suppress(InvalidStateError):
                ended.set_result(None)
            self._notify()

    def _pump(self) -> None:
        try:
            while not self._is_stopping and not self._loop.is_closed():
                self._answer()
                if self._hooks is not None:
                    self._keep_membership()
                    self._balance.forget(self.assignment.seek(self._kafka))
                if self._balance.may_read(self._kafka, _POLL_S, is_called_back=self._unanswered is not None):
                    self._read()
        finally:
            self._is_stopping = self._is_closing = True
            self._kafka.close()

    def _make(self) -> None:
        callbacks = {"stats_cb": self._count_answers, "error_cb": self._note_error, "on_commit": self._on_committed}
        self._kafka = Consumer({**self._settings, **callbacks})

    def _answer(self) -> None:
        while not self._questions.empty():
            self._questions.get()()

    def _keep_membership(self) -> None:
        try:
            self._subscription.keep(self._kafka, self._callbacks, has_partitions=bool(self.assignment.partitions))
        except ClientFailed as error:
            self.failure = error
            self._notify()

    def _read(self) -> None:
        messages = self._kafka.consume(_AT_ONCE, 0)
        if not messages:
            # `consume` would wait until it has as many as it was asked for; `poll` does not.
            first = self._kafka.poll(_POLL_S)
            if first is None:
                return
            messages = [first, *self._kafka.consume(_AT_ONCE - 1, 0)]
        found, events = self._sort(cast("list[Message]", messages))
        is_awaited = bool(events)
        for partition, records in found.items():
            is_awaited |= self.held.put(partition, records)
            marks = self._kafka.get_watermark_offsets(TopicPartition(*partition), cached=True)
            self.ends[partition] = max(marks[1] if marks is not None else 0, records[-1].position + 1)
        for event in events:
            self._take_event(event)
        if is_awaited:
            self._notify()

    def _sort(self, messages: list[Message]) -> tuple[dict[Partition, list[Record]], list[Message]]:
        topic = self._subscription.only_topic
        return read_messages(topic, messages) if topic else read_topics(messages)

    def _take_event(self, message: Message) -> None:
        error, partition = message.error(), Partition(message.topic() or "", message.partition())
        assert error is not None, "it is no record"
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self.held.reach(partition, message.offset())
            self.ends[partition] = max(self.ends.get(partition, 0), message.offset())
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            self.held.note_passed(partition)
        else:
            self._note_error(error)

    def _send_commit(self, generation: int, offsets: list[TopicPartition], answer: _CommitAnswer) -> None:
        """Commit, one after the other.

        Whoever gave up the one before did not take it from librdkafka, which for a session's time sends it again until
        there is a coordinator, and then perhaps behind one that it was given later.
        """
        if answer.done():
            return
        # Only in this thread nothing changes until it is sent.
        ours = self.assignment.still_ours(generation, offsets)
        try:
            if self._is_closing:
                # It still calls back, and aborts the process when it is given a commit then.
                _end_commit(answer, KafkaError(KafkaError._DESTROY))  # noqa: SLF001
            elif not ours:
                _end_commit(answer, KafkaError(KafkaError.ILLEGAL_GENERATION))
            elif self._is_in_callback:
                # Nothing is polled here, and so no answer would come.
                _end_commit(answer, _first_error(self._kafka.commit(offsets=ours, asynchronous=False)))
            elif self._unanswered is not None:
                self._interrupt_next_commit()
                self._next_commit = generation, offsets, answer
            else:
                self._kafka.commit(offsets=ours, asynchronous=True)
                self._unanswered_partitions = frozenset(_ours(ours))
                self._unanswered = answer
        except KafkaException as error:
            _end_commit(answer, error.args[0])

    def _interrupt_next_commit(self) -> None:
        """Have whoever waits to send one, if anybody does, come again with it."""
        if self._next_commit is not None:
            *_, answer = self._next_commit
            self._next_commit = None
            _end_commit(answer, KafkaError(KafkaError._IN_PROGRESS))  # noqa: SLF001

    # -- librdkafka's callbacks, in the thread, within a poll ----------------------------------------------------------

    def _on_committed(self, refused: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        answer, self._unanswered = self._unanswered, None
        assert answer is not None, "it is called once for each"
        _end_commit(answer, refused or _first_error(partitions))
        if self._next_commit is not None:
            following, self._next_commit = self._next_commit, None
            self._send_commit(*following)

    def _count_answers(self, statistics: str) -> None:
        brokers = msgspec.json.decode(statistics, type=_Statistics).brokers
        self.answers = sum(broker.rx for broker in brokers.values())
        self.contacts += any(broker.state == "UP" for broker in brokers.values())

    def _note_error(self, error: KafkaError) -> None:
        is_missing = error.code() in _MISSING
        if error.fatal() or error.code() in _FAILURES or (is_missing and self._subscription.note_missing()):
            self.failure = ClientFailed(_NO_KIP848 if _TOO_OLD in error.str() else error.str())
            self._notify()

    def _on_assigned(self, kafka: Consumer, partitions: Sequence[TopicPartition]) -> None:
        ours = _ours(partitions)
        self.assignment.begin(kafka, ours)
        assert self._hooks is not None, "it has begun"
        self._call(self._hooks[1], ours)
        self.assignment.read(kafka, ours)

    def _on_revoked(self, kafka: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if not self._subscription.is_in:
            # We left: there is nobody to settle anything for.
            self.assignment.lose()
        ours = _ours(partitions)
        assert self._hooks is not None, "it has begun"
        self._call(self._hooks[0], ours)
        self._balance.forget(ours)
        self.assignment.give_up(kafka, ours)

    def _on_lost(self, kafka: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self.assignment.lose()
        self._on_revoked(kafka, partitions)

    def _call(self, hook: PartitionsHook, partitions: Sequence[Partition]) -> None:
        """Run a hook in the loop and wait for it, unless the loop is ending; answer what it asks."""
        if self._is_stopping or self._loop.is_closed():
            return
        self._is_in_callback = True
        # Answers come while it is read, which it is not in here: whoever waits for one sends it again, and hears soon.
        self._interrupt_next_commit()
        if self._unanswered is not None:
            _end_commit(self._unanswered, KafkaError(KafkaError._IN_PROGRESS))  # noqa: SLF001
        running = asyncio.run_coroutine_threadsafe(hook(partitions), self._loop)
        running.add_done_callback(lambda _: self._questions.put(lambda: None))
        while not running.done() and not self._loop.is_closed():
            try:
                self._questions.get(timeout=_LOOK_S)()
            except queue.Empty:
                continue
        self._is_in_callback = False
        try:
            if running.done():
                running.result()
        except CancelledError:
            self._is_stopping = True

    # ------------------------------------------------------------------------------------------------------------------

    def _notify(self) -> None:
        # A loop that was abandoned closes at any moment.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)


def _settle(answer: Future[_Answer], question: Callable[[], _Answer]) -> None:
    """Do something for whoever waits for it, unless nobody does any more."""
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(question())
    except (KafkaException, UnicodeDecodeError) as error:
        answer.set_exception(error)


def _end_commit(answer: _CommitAnswer, refused: KafkaError | None) -> None:
    with suppress(InvalidStateError):
        answer.set_result(refused)


def _ours(partitions: Sequence[TopicPartition]) -> list[Partition]:
    return sorted(Partition(each.topic, each.partition) for each in partitions)


def _first_error(answers: Sequence[TopicPartition]) -> KafkaError | None:
    return next((answer.error for answer in answers if answer.error is not None), None)
