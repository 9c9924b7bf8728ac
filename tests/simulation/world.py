"""A simulated world: one pipeline, records that succeed, fail and dawdle, and everything that may go wrong around it.

Everything follows from the seed. The engine is the real one, on the memory store; sources and destinations are embedded
or simulated. When the faults end, the world waits until nothing is left to do; `checkers` judge what happened.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import anyio

import eventcore
from eventcore import signals
from eventcore.delivery.windows import IDLE_S
from eventcore.embedded.shapes import sequence_position
from eventcore.embedded.sharding import shard_name
from eventcore.testing import Invoked, VirtualPipeline
from tests.simulation.plan import (
    BREAKER_FAILURES,
    BREAKER_PAUSE_S,
    CRASH_POINTS,
    QUEUES,
    RECEIVES_MAX,
    REDRIVE_EVERY_S,
    REDRIVE_S,
    REDRIVES_MAX,
    SETTLED_WITHIN_S,
    SETTLING_POINTS,
    SOURCES,
    TROUBLE_S,
    VISIBILITY_S,
    WINDOW_S,
    Plan,
)
from tests.simulation.trouble import Trouble


class Told(NamedTuple):
    """What the destination was told of."""

    shard: str
    first: int
    last: int
    reason: str
    positions: frozenset[int]
    window: str = ""  #: start of the window whose final call was given up


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
        self.doubled: list[tuple[float, float]] = []  #: from when to when two engines ran
        self.unbalanced: list[str] = []
        self.succeeded: Counter[int] = Counter()  #: by record: calls that came back with it done
        self.windows: dict[int, tuple[str, str]] = {}  #: by record: shard and start of the window that it came in
        self.finals: dict[tuple[str, str], list[int]] = {}  #: by window: the records that its last call knew of
        self.closed: set[tuple[str, str]] = set()  #: windows whose final call came back
        self.healed: set[int] = set()  #: records that were parked, and whatever was wrong with them is mended
        self.final_failures: Counter[tuple[str, str]] = Counter()  #: by window: final calls that failed
        self._open_shards = [shard_name(number) for number in range(plan.shards)]  #: by their ranges of keys
        self._away_until_s = 0.0  #: what the function needs is back then
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
        app.queue("parked", message_retention_period=1_209_600)
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
                # The records of one lane come far apart: without it they would hardly ever share a batch.
                "maximum_batching_window_in_seconds": 4 if plan.kind == "parallel" and plan.batch_size > 1 else 0,
            }
            if plan.kind == "parallel":
                settings["parallelization_factor"] = 3
            if plan.kind == "lanes":
                settings |= {"lanes": plan.lanes, "parking": "queue:parked"}
                # Keys fail for so long that others do, too: what is one too many is parked.
                settings["retry_schedule"] = {"kind": "linear", "initial": 4.0}
            if plan.kind == "window":
                settings["tumbling_window_in_seconds"] = WINDOW_S
            if plan.bisects:
                settings["bisect_batch_on_function_error"] = True
        if plan.reports:
            settings["function_response_types"] = ["ReportBatchItemFailures"]
        if plan.breaks:
            settings["circuit_breaker"] = {
                "failures": BREAKER_FAILURES,
                "pause": BREAKER_PAUSE_S,
                "maximum_pause": 20,
                "error_types": ["ConnectionError"],
            }
        if plan.remembers:
            settings["idempotency"] = {"key": "$.n"}
        app.mapping("orders", source=SOURCES[plan.kind], function="work", batch_size=plan.batch_size, **settings)
        return app

    # -- the function --------------------------------------------------------------------------------------------------

    async def _work(self, event: Any, context: Any) -> Any:
        if self.plan.kind == "window" and event["isFinalInvokeForWindow"]:
            return self._close(event)
        began_s = anyio.current_time()
        if began_s < self._away_until_s:
            raise ConnectionError("what the function needs is away")
        done, failed = [], []
        for identifier, record in self._read(event):
            is_healed = record["n"] in self.healed
            if record["s"] and not is_healed:
                await anyio.sleep(record["s"])
            self._tries[record["n"]] += 1
            is_poison = record["do"] == "poison" and not is_healed
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

    def _close(self, event: Any) -> None:
        place = event["shardId"], event["window"]["start"]
        self.finals[place] = event["state"].get("seen", [])
        if self.final_failures[place] < self.plan.final_failures:
            self.final_failures[place] += 1
            raise ValueError(f"the final call of {place}")
        self.closed.add(place)

    def _read(self, event: Any) -> list[tuple[Any, dict[str, Any]]]:
        match self.plan.kind:
            case "event":
                return [("", event)]
            case "queue" | "fifo":
                return [(each["messageId"], json.loads(each["body"])) for each in event["Records"]]
            case "stream" | "parallel" | "window" | "lanes":
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
                self._redrive_parked()
                self.pipeline.run_until_idle(within_s=SETTLED_WITHIN_S)
                # No batching window here outlasts it: what is open now is closed.
                self._advance(IDLE_S + WINDOW_S if self.plan.kind == "window" else 0.0)
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
        self._send_once(record)
        if self.plan.remembers and record["n"] % 4 == 0:
            self._send_once(record)

    def _send_once(self, record: dict[str, Any]) -> None:
        key = key_of(record)
        while True:
            self.sends[record["n"]] += 1
            try:
                if self.plan.kind == "event":
                    place: Any = self.pipeline.invoke_async("work", record)
                else:
                    # What was sent and not answered is a repetition; what is sent twice on purpose is none.
                    copy = sum(each["n"] == record["n"] for each in self.sent.values())
                    name = f"record-{record['n']}-{copy}" if self.plan.kind == "fifo" else ""
                    source = SOURCES[self.plan.kind]
                    (place,) = self.pipeline.send(source, [record], key=key, deduplication_id=name)
            except eventcore.EventcoreError:
                continue  # the sender is told, and tries again: with a lost answer the record is there twice
            at = tuple(place) if isinstance(place, tuple | list) else place
            self.sent[at] = record
            if self.plan.kind not in {"queue", "event"}:
                for chain in self.chains_of(at[0], record):
                    self.chains.setdefault(chain, []).append(record["n"])
            return

    def chains_of(self, shard: str, record: dict[str, Any]) -> list[str]:
        """Return what a record is in order with: its shard, and its key or message group, also over a split."""
        match self.plan.kind:
            case "stream" | "kafka" | "window":
                return [shard, f"key {key_of(record)}"]
            case _:
                return [f"key {key_of(record)}"]

    def _let_go_wrong(self, what: str) -> None:
        if what != "away":
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
                began_s = self.pipeline.now_s
                self.pipeline.take_over(seconds=self._dice.uniform(0.1, 8))
                self.doubled.append((began_s, self.pipeline.now_s))
            case "away":
                self._away_until_s = self.pipeline.now_s + self._dice.uniform(1, 40)
            case "redrive":
                self._redrive()
            case "split" | "merge":
                # The store may refuse it, as it may refuse everything.
                with suppress(eventcore.EventcoreError):
                    self._reshard(what)
            case _:
                self._rebalance(is_lost=what == "lose")

    def _redrive_parked(self) -> None:
        """Mend what was parked, and give it back until nothing is: children of a split shard wait for that."""
        if self.plan.kind != "lanes":
            return
        for _ in range(REDRIVES_MAX):
            self._advance(REDRIVE_EVERY_S)
            if not any(shard.parked for shard in self.pipeline.status.mappings[0].shards):
                return
            self.healed.update(message.json["n"] for message in self.pipeline.delivered_to("queue:parked"))
            self.pipeline.redrive("orders")
        raise TimeoutError("keys are parked that no redrive brings back")

    def _redrive(self) -> None:
        """Give back what is parked, if somebody is there who can; an engine may come to where it is to die."""
        with suppress(eventcore.EventcoreError, TimeoutError):
            self.pipeline.redrive("orders", within_s=REDRIVE_S)
        if self._at_point is not None and self._at_point.is_set():
            self._crash()

    def _reshard(self, what: str) -> None:
        """Split a shard, or merge two that adjoin."""
        names, count = self._open_shards, 1 if what == "split" else 2
        if len(names) < count:
            return
        index = self._dice.randrange(len(names) + 1 - count)
        if what == "split":
            children = self.pipeline.split("orders", names[index])
        else:
            children = (self.pipeline.merge("orders", names[index], names[index + 1]),)
        names[index : index + count] = children

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

    def _find_deliveries(self) -> list[Told]:
        """Return what the destination was told."""
        # A batch of one lane of a shard is no range of positions: what was kept of it has them.
        kept = {(each.shard, each.first, each.last): each.positions for each in self.trouble.given_up}
        found: list[Told] = []

        def tell(shard: str, first: int, last: int) -> None:
            positions = kept.get((shard, str(first), str(last))) or frozenset(range(first, last + 1))
            found.append(Told(shard, first, last, reason, positions))

        for delivered in self.pipeline.delivered_to(self.plan.destination):
            told = delivered.json
            reason = told["requestContext"]["condition"]
            if self.plan.kind == "event":
                tell(told["requestContext"]["requestId"], 0, 0)
            elif (window := told.get("timeWindowInfo")) and window["isFinalInvokeForWindow"]:
                shard, start = told["KinesisBatchInfo"]["shardId"], window["window"]["start"]
                found.append(Told(shard, -1, -1, reason, frozenset(), start))
            elif info := told.get("KinesisBatchInfo"):
                first, last = (sequence_position(info[f"{end}SequenceNumber"]) for end in ("start", "end"))
                tell(info["shardId"], first, last)
            elif info := told.get("KafkaBatchInfo"):
                ((shard, named),) = info["recordsInfo"].items()
                tell(shard, int(named["firstRecordOffset"]), int(named["lastRecordOffset"]))
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
