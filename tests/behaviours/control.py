"""What a person does to the mapping `orders` while it runs."""

from __future__ import annotations

from eventcore.config.effective import resolve
from eventcore.config.pipeline import Pipeline
from eventcore.embedded.sharding import shard_name
from eventcore.http.contract import GetMappingLog, PauseMapping, ResumeMapping, SeekMapping, Skipped, SkipRecords
from eventcore.http.mappings import MappingOperations
from eventcore.testing.harness import Harness

SHARD = shard_name(0)


class Control:
    """What Ann does to the mapping `orders`."""

    def __init__(self, app: Pipeline, harness: Harness) -> None:
        mappings = resolve(app.loaded()).mappings
        self._operations = MappingOperations(harness.store, harness.clock, mappings, harness.engine)

    async def pause(self, shard: str = "") -> None:
        await self._operations.pause(PauseMapping(mapping="orders", shard=shard, by="ann"))

    async def resume(self, shard: str = "") -> None:
        await self._operations.resume(ResumeMapping(mapping="orders", shard=shard, by="ann"))

    async def seek(self, position: int, shard: str = SHARD) -> None:
        await self._operations.seek(SeekMapping(mapping="orders", positions={shard: position}, by="ann"))

    async def skip(self, count: int = 0, shard: str = SHARD) -> Skipped:
        return await self._operations.skip(SkipRecords(mapping="orders", shard=shard, count=count, by="ann"))

    async def log(self) -> list[tuple[str, str, str, str]]:
        entries = await self._operations.log(GetMappingLog(mapping="orders"))
        return [(entry.by, entry.action, entry.shard, entry.detail) for entry in entries]
