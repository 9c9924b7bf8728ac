"""A simulated world: one pipeline, records that succeed, fail and dawdle, and everything that may go wrong around it.

Everything follows from the seed. The engine is the real one, on the memory store; sources and destinations are embedded
or simulated. When the faults end, the world waits until nothing is left to do; `checkers` judge what happened.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import anyio

import eventcore
from eventcore import signals
from eventcore.delivery.ordering import ShardState
from eventcore.embedded.shapes import sequence_position
from eventcore.ports.store import KeepFailure, Operation, ReceiveMessages, SaveCheckpoint, TakeShard
from eventcore.testing import Fate, Faults, Invoked, VirtualPipeline

#: How long records come, and things go wrong, seconds.
TROUBLE_S = 90.0
#: By then everything is settled or given up, seconds after the trouble: nothing here backs off for longer.
SETTLED_WITHIN_S = 6 * 3600.0
#: A queue's messages come back after so long, seconds.
VISIBILITY_S = 20
WINDOW_S = 10
RECEIVES_MAX = 6
#: Worlds by what brings the records: `parallel` is a stream whose shards are worked on by several batches at a time,
#: `event` has no mapping, and invokes its function asynchronously; `window` is a stream that is cut into windows.
SOURCES = {
    "stream": "stream:orders",
    "kafka": "kafka:local/orders",
    "queue": "queue:orders",
    "fifo": "queue:orders",
    "parallel": "stream:orders",
    "event": "",
    "window": "stream:orders",
}
QUEUES = ("queue", "fifo")
#: Where an engine may die, beside any instant.
CRASH_POINTS = (
    "dispatcher.before_invoke",
    "dispatcher.after_invoke",
    "settler.before_store",
    "settler.after_store",
    "settler.before_ack",
    "settler.after_ack",
    "outbox.before_send",
    "outbox.after_send",
    "outbox.after_mark",
)


#: Those of one settling step: where an engine that settles in the wrong order loses something.
SETTLING_POINTS = CRASH_POINTS[2:6]


class Entry(NamedTuple):
    """Something that happened to a shard: it was taken, or its checkpoint was written."""

    shard: str
    kind: str  #: "taken" or "settled"
    epoch: int
    checkpoint: int
    attempt: int  #: of its failing work
    is_answer_lost: bool = False  #: whoever wrote it does not know


class Plan(NamedTuple):
    """What a seed makes of the world."""

    kind: str  #: of the source
    shards: int
    batch_size: int
    retries: int
    bisects: bool
    reports: bool
    destination: str
    records: list[dict[str, Any]]
    sends: list[float]  #: when each record is sent
    troubles: list[tuple[float, str]]


def make_plan(seed: int, kind: str | None = None, *, is_simple: bool = False) -> Plan:
    """Draw a world.

    Args:
        seed: of everything.
        kind: of its source; None: by the seed.
        is_simple: batches of one record, so that attempts can be counted; much poison, and crashes alone.
    """
    dice = random.Random(seed)
    kind = kind or tuple(SOURCES)[seed % len(SOURCES)]
    count = dice.randint(8, 30)
    records = [
        {
            "n": number,
            "do": dice.choices(("ok", "poison", "flaky"), (4, 2, 1) if is_simple else (8, 1, 1))[0],
            "times": dice.randint(1, 3),
            "s": dice.choices((0.0, 0.05, 1.5, 4.0), (60, 25, 12, 3))[0],
        }
        for number in range(count)
    ]
    choices = ["crash", "point"] if is_simple else ["crash", "point", "restart", "skew", "store", "outage"]
    if kind == "kafka" and not is_simple:
        choices += ["settle", "revoke", "lose", "take_over"] * 2
    troubles = sorted(
        (dice.uniform(0, TROUBLE_S), dice.choice(choices))
        for _ in range(dice.randint(4, 8) if is_simple else dice.randint(1, 6))
    )
    shards = dice.randint(1, 3)
    # The batches of one lane of a shard are no range of positions, and a record of a discard names one.
    batch_size = 1 if is_simple or dice.random() < 0.4 or kind == "parallel" else dice.randint(2, 5)
    return Plan(
        kind=kind,
        shards=shards,
        batch_size=batch_size,
        retries=dice.randint(2, 6) if kind != "event" else dice.randint(0, 2),
        bisects=dice.random() < 0.4 and batch_size > 1,
        reports=dice.random() < 0.4 and kind != "window",
        destination=dice.choice(("queue:failed", "http:sink")),
        records=records,
        sends=sorted(dice.uniform(0, TROUBLE_S * 0.8) for _ in records),
        troubles=troubles,
    )


class Trouble(Faults):
    """What goes wrong at the store and the source, by the dice; and a journal of who owned what."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.store_calls = 0  #: commits that still may fail
        self.settle_calls = 0
        self._is_answer_lost = False
        self.journal: list[Entry] = []
        self.disturbed = 0  #: answers that were refused or lost
        #: What the store was told to have been given up, and when: shard, first and last; message ids as both.
        self.given_up: list[tuple[float, str, str, str]] = []

    def fate_of_commit(self, operations: Sequence[Operation]) -> Fate:
        self.store_calls, is_near = max(0, self.store_calls - 1), self.store_calls > 0
        # A store that says it failed has written nothing (`Store.commit`).
        fate = self._draw(is_near)
        return Fate.DONE if fate is Fate.DONE else Fate.REFUSED

    def fate_of_settle(self, shard: str) -> Fate:
        self.settle_calls, is_near = max(0, self.settle_calls - 1), self.settle_calls > 0
        fate = self._draw(is_near)
        self._is_answer_lost = fate is Fate.LOST
        return fate

    def _draw(self, is_near: bool) -> Fate:
        if not is_near or self.dice.random() < 0.5:
            return Fate.DONE
        self.disturbed += 1
        return self.dice.choice((Fate.REFUSED, Fate.LOST))

    def on_committed(self, operations: Sequence[Operation], results: Sequence[Any]) -> None:
        for operation, result in zip(operations, results, strict=True):
            if isinstance(operation, TakeShard):
                self.journal.append(Entry(operation.shard, "taken", result.epoch, result.position, 0))
            elif isinstance(operation, SaveCheckpoint):
                self.on_settled("", operation.shard, operation.epoch, operation.position, operation.state)
            elif isinstance(operation, KeepFailure) and operation.failure.is_final:
                failure = operation.failure
                self.given_up.append((anyio.current_time(), failure.shard, failure.first, failure.last))
            elif isinstance(operation, ReceiveMessages):
                self.given_up += [(anyio.current_time(), "", each.id, each.id) for each in result.moved]

    def on_taken(self, source: str, shard: str, epoch: int) -> None:
        self.journal.append(Entry(shard, "taken", epoch, -1, 0))

    def on_settled(self, source: str, shard: str, epoch: int, checkpoint: int, state: ShardState) -> None:
        attempt = state.parts[0].attempt if state.parts else 0
        self.journal.append(Entry(shard, "settled", epoch, checkpoint, attempt, self._is_answer_lost))
        self._is_answer_lost = False


class World:
    """One run. `play` it; then look at what is there."""

    def __init__(self, seed: int, plan: Plan, *, is_simple: bool = False) -> None:
        self.plan = plan
        self._is_simple = is_simple
        self._dice = random.Random(f"trouble {seed}")
        self.trouble = Trouble(random.Random(f"fates {seed}"))
        self.sent: dict[tuple[str, int] | str, dict[str, Any]] = {}  #: by place, message id or request id
        self.chains: dict[Any, list[int]] = {}  #: records that are in order among themselves
        self.sends: Counter[int] = Counter()  #: by record: an answer that got lost makes its sender send again
        self.crashes: list[float] = []
        self.disturbances: list[float] = []  #: when something happened that may repeat an invocation
        self.unbalanced: list[str] = []
        self.succeeded: Counter[int] = Counter()  #: by record: calls that came back with it done
        self.windows: dict[int, tuple[str, str]] = {}  #: by record: shard and start of the window that it came in
        self.finals: dict[tuple[str, str], list[int]] = {}  #: by window: the records that its last call knew of
        self._tries: Counter[int] = Counter()
        self._at_point: anyio.Event | None = None
        self.is_idle = False
        self.pipeline = VirtualPipeline(
            self._app(),
            functions={"work": self._work},
            shards={SOURCES["kafka"]: plan.shards},
            seed=seed,
            faults=self.trouble,
        )

    def _app(self) -> eventcore.App:
        plan, app = self.plan, eventcore.App()
        app.queue("failed")
        app.queue("dead", message_retention_period=1_209_600, fifo_queue=plan.kind == "fifo")
        app.http("sink", url="https://sink.example.org")
        if plan.kind == "event":
            retries = plan.retries
            app.function(
                "work", handler="nowhere.work", timeout=3, maximum_retry_attempts=retries, on_failure=plan.destination
            )
            return app
        app.function("work", handler="nowhere.work", timeout=3)
        if plan.kind in QUEUES:
            policy = {"dead_letter_queue": "dead", "max_receive_count": RECEIVES_MAX}
            is_fifo = plan.kind == "fifo"
            app.queue(
                "orders",
                visibility_timeout=VISIBILITY_S,
                redrive_policy=policy,  # type: ignore[typeddict-item]
                fifo_queue=is_fifo,
            )
            settings: dict[str, Any] = {}
        else:
            app.kafka("local", bootstrap_servers="127.0.0.1:9")
            app.stream("orders", shards=plan.shards)
            settings = {
                "starting_position": "TRIM_HORIZON",
                "maximum_retry_attempts": plan.retries,
                "on_failure": plan.destination,
                "maximum_batching_window_in_seconds": 0,
            }
            if plan.kind == "parallel":
                settings["parallelization_factor"] = 3
            if plan.kind == "window":
                settings["tumbling_window_in_seconds"] = WINDOW_S
            if plan.bisects:
                settings["bisect_batch_on_function_error"] = True
        if plan.reports:
            settings["function_response_types"] = ["ReportBatchItemFailures"]
        app.mapping("orders", source=SOURCES[plan.kind], function="work", batch_size=plan.batch_size, **settings)
        return app

    # -- the function --------------------------------------------------------------------------------------------------

    async def _work(self, event: Any, context: Any) -> Any:
        if self.plan.kind == "window" and event["isFinalInvokeForWindow"]:
            self.finals[event["shardId"], event["window"]["start"]] = event["state"].get("seen", [])
            return None
        done, failed = [], []
        for identifier, record in self._read(event):
            if record["s"]:
                await anyio.sleep(record["s"])
            self._tries[record["n"]] += 1
            is_poison = record["do"] == "poison"
            if is_poison or (record["do"] == "flaky" and self._tries[record["n"]] <= record["times"]):
                if not self.plan.reports or self.plan.kind == "event":
                    raise ValueError(f"record {record['n']}")
                failed.append(identifier)
                if self.plan.kind != "queue":
                    break
            else:
                done.append(record["n"])
        self.succeeded.update(done)
        if self.plan.kind == "fifo" and failed:
            # As Lambda wants it of functions on FIFO queues (§3.1): the first that failed and all behind it.
            failed = [identifier for identifier, record in self._read(event) if record["n"] not in done]
        if self.plan.kind == "window":
            place = event["shardId"], event["window"]["start"]
            self.windows.update(dict.fromkeys(done, place))
            return {"state": {"seen": [*event["state"].get("seen", []), *done]}}
        names = [{"itemIdentifier": identifier} for identifier in failed]
        return {"batchItemFailures": names} if self.plan.reports else None

    def _read(self, event: Any) -> list[tuple[Any, dict[str, Any]]]:
        match self.plan.kind:
            case "event":
                return [("", event)]
            case "queue" | "fifo":
                return [(each["messageId"], json.loads(each["body"])) for each in event["Records"]]
            case "stream" | "parallel" | "window":
                return [
                    (each["kinesis"]["sequenceNumber"], json.loads(base64.b64decode(each["kinesis"]["data"])))
                    for each in event["Records"]
                ]
            case _:
                ((shard, records),) = event["records"].items()
                return [
                    ({"partition": shard, "offset": each["offset"]}, json.loads(base64.b64decode(each["value"])))
                    for each in records
                ]

    # -- the run -------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Send, let go wrong what goes wrong, and wait until nothing is left to do."""
        try:
            steps = [(at_s, "send", record) for at_s, record in zip(self.plan.sends, self.plan.records, strict=True)]
            steps += [(at_s, trouble, {}) for at_s, trouble in self.plan.troubles]
            for at_s, what, record in sorted(steps, key=lambda step: step[0]):
                self._advance(max(0.0, at_s - self.pipeline.now_s))
                if what == "send":
                    self._send(record)
                else:
                    self._let_go_wrong(what)
            self._advance(max(0.0, TROUBLE_S - self.pipeline.now_s))
            self._end_trouble()
            try:
                self.pipeline.run_until_idle(within_s=SETTLED_WITHIN_S)
                self.is_idle = True
            except TimeoutError as error:
                self.why_busy = str(error)
            self._look_at_books()
            self.deliveries = self._find_deliveries()
            self.dead = [message.json["n"] for message in self.pipeline.delivered_to("queue:dead")]
        finally:
            signals.clear_hooks()
            self.pipeline.abandon()

    def _advance(self, seconds: float) -> None:
        """Let time pass; an engine that has come to a point where it is to die dies there."""
        end_s = self.pipeline.now_s + seconds
        while (left_s := end_s - self.pipeline.now_s) > 0:
            if self._at_point is None:
                self.pipeline.advance(left_s)
                return
            self.pipeline.run(_wait_at_most(self._at_point, left_s))
            if not self._at_point.is_set():
                return
            self._crash()

    def _send(self, record: dict[str, Any]) -> None:
        key = key_of(record)
        while True:
            self.sends[record["n"]] += 1
            try:
                if self.plan.kind == "event":
                    place: Any = self.pipeline.invoke_async("work", record)
                else:
                    name = f"record-{record['n']}" if self.plan.kind == "fifo" else ""
                    source = SOURCES[self.plan.kind]
                    (place,) = self.pipeline.send(source, [record], key=key, deduplication_id=name)
            except eventcore.EventcoreError:
                continue  # the sender is told, and tries again: with a lost answer the record is there twice
            at = tuple(place) if isinstance(place, tuple | list) else place
            self.sent[at] = record
            if self.plan.kind not in {"queue", "event"}:
                self.chains.setdefault(self.chain(at[0], record), []).append(record["n"])
            return

    def chain(self, shard: str, record: dict[str, Any]) -> Any:
        """Return what a record is in order with: its shard, its key, or its message group."""
        match self.plan.kind:
            case "stream" | "kafka" | "window":
                return shard
            case "parallel":
                return shard, key_of(record)
            case _:
                return key_of(record)

    def _let_go_wrong(self, what: str) -> None:
        self.disturbances.append(self.pipeline.now_s)
        match what:
            case "crash":
                self._crash()
            case "point":
                is_far = self._dice.random() < 0.5
                points = SETTLING_POINTS if self._is_simple else CRASH_POINTS
                self._crash_at(self._dice.choice(points), self._dice.randint(1, 12 if is_far else 3))
            case "restart":
                self._look_at_books()
                self._leave_points()
                self.pipeline.restart()
            case "skew":
                self.trouble.clock_skew_ms += self._dice.choice((-15_000, -2_000, 2_000, 30_000))
            case "store":
                self.trouble.store_calls = self._dice.randint(1, 12)
            case "settle":
                self.trouble.settle_calls = self._dice.randint(1, 8)
            case "outage":
                self.pipeline.take_down("http:sink", seconds=self._dice.uniform(1, 40))
            case "take_over":
                self._leave_points()
                self.pipeline.take_over(seconds=self._dice.uniform(0.1, 8))
            case _:
                self._rebalance(is_lost=what == "lose")

    def _rebalance(self, *, is_lost: bool) -> None:
        # A mapping that is being restarted has no shards to lose.
        with suppress(eventcore.EventcoreError):
            self.pipeline.rebalance("orders", is_lost=is_lost)

    def _leave_points(self) -> None:
        """Let nobody die at a point, and the store work: an engine that can't begin is nobody's promise."""
        signals.clear_hooks()
        self._at_point = None
        self.trouble.store_calls = 0

    def _crash(self) -> None:
        self._leave_points()
        self.crashes.append(self.pipeline.now_s)
        self.disturbances.append(self.pipeline.now_s)
        self.pipeline.crash()

    def _crash_at(self, point: str, count: int) -> None:
        reached = self._at_point = anyio.Event()
        left = count

        async def die() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                reached.set()
                await anyio.sleep_forever()

        signals.clear_hooks()
        signals.set_hook(point, die)

    def _end_trouble(self) -> None:
        self._leave_points()
        self.trouble.settle_calls = 0

    def _look_at_books(self) -> None:
        for mapping in self.pipeline.status.mappings:
            if mapping.counters is not None and not mapping.counters.is_balanced:
                self.unbalanced.append(f"at {self.pipeline.now_s:g} s: {mapping.counters}")

    # -- what is there at the end --------------------------------------------------------------------------------------

    def _find_deliveries(self) -> list[tuple[str, int, int, str]]:
        """Return what the destination was told: shard, first and last position, and the reason."""
        found = []
        for delivered in self.pipeline.delivered_to(self.plan.destination):
            told = delivered.json
            reason = told["requestContext"]["condition"]
            if self.plan.kind == "event":
                found.append((told["requestContext"]["requestId"], 0, 0, reason))
            if info := told.get("KinesisBatchInfo"):
                first, last = (sequence_position(info[f"{end}SequenceNumber"]) for end in ("start", "end"))
                found.append((info["shardId"], first, last, reason))
            elif info := told.get("KafkaBatchInfo"):
                ((shard, named),) = info["recordsInfo"].items()
                found.append((shard, int(named["firstRecordOffset"]), int(named["lastRecordOffset"]), reason))
        return found

    @property
    def invocations(self) -> list[Invoked]:
        return self.pipeline.invocations


def key_of(record: dict[str, Any]) -> str:
    """Return the partition key, or the message group, of a record."""
    return "abcdefgh"[record["n"] % 8]


async def _wait_at_most(event: anyio.Event, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await event.wait()
