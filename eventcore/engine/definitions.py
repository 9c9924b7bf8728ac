"""What a pipeline's settings become: functions in the registry, queues and streams in the store, connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventcore.config.effective import EffectivePipeline
from eventcore.config.load import LoadedConfig
from eventcore.config.structs_buckets import place_bucket
from eventcore.embedded.events import define_event_queue
from eventcore.errors import ConfigError, Mistake
from eventcore.ports.runtime import FunctionSpec, Runtime
from eventcore.ports.store import DefineQueue, DefineStream, QueueSettings, Store, StreamSettings
from eventcore.registry import Function, Registry


def function_specs(loaded: LoadedConfig, targets: Mapping[str, Any] | None = None) -> dict[str, FunctionSpec]:
    """Return the pipeline's functions as a runtime needs them."""
    settings = loaded.config.settings
    targets = targets or {}
    return {
        name: FunctionSpec(
            name=name,
            handler=function.handler,
            code=(loaded.folder / function.code).resolve(),
            arn=f"arn:aws:lambda:{settings.region}:{settings.account_id}:function:{name}",
            timeout_s=function.timeout,
            memory_size_mb=function.memory_size,
            ephemeral_storage_mb=function.ephemeral_storage,
            environment=function.environment,
            runtime=function.runtime,
            start=function.start,
            preload=function.preload,
            idle_timeout_s=function.idle_timeout,
            target=targets.get(name),
        )
        for name, function in loaded.config.functions.items()
    }


def make_registry(
    loaded: LoadedConfig, runtimes: Mapping[str, Runtime], targets: Mapping[str, Any] | None = None
) -> Registry:
    """Return the pipeline's functions, each in its runtime."""
    return Registry(
        Function(
            spec,
            runtimes[spec.runtime],
            concurrency=(settings := loaded.config.functions[name]).invocations_max,
            stops_loops=settings.recursive_loop == "Terminate",
        )
        for name, spec in function_specs(loaded, targets).items()
    )


async def define_sources(store: Store, pipeline: EffectivePipeline) -> None:
    """Make the pipeline's queues and streams in the store, or bring their settings up to date.

    Raises:
        ConfigError: a stream was made with another number of shards, a queue as one of the other type.
    """
    for name, queue in pipeline.queues.items():
        redrive = queue.redrive_policy
        settings = QueueSettings(
            visibility_timeout=queue.visibility_timeout,
            message_retention_period=queue.message_retention_period,
            delay=queue.delay,
            maximum_message_size=queue.maximum_message_size,
            dead_letter_queue=redrive.dead_letter_queue if redrive else "",
            max_receive_count=redrive.max_receive_count if redrive else 0,
            fifo_queue=queue.fifo_queue,
            content_based_deduplication=queue.content_based_deduplication,
            deduplication_scope=queue.deduplication_scope,
        )
        try:
            await store.commit([DefineQueue(queue=name, settings=settings)])
        except ValueError as error:
            raise ConfigError([Mistake(path=f"queues.{name}.fifo_queue", message=str(error))]) from error
    for function in sorted({each.name for each in pipeline.destinations if each.kind == "function"}):
        await store.commit([define_event_queue(function)])
    for name, stream in stream_settings(pipeline).items():
        try:
            await store.commit([DefineStream(stream=name, settings=stream)])
        except ValueError as error:
            hint = "write the number that it was made with, and split or merge: eventcore stream split"
            raise ConfigError([Mistake(path=f"streams.{name}.shards", message=str(error), hint=hint)]) from error


def stream_settings(pipeline: EffectivePipeline) -> dict[str, StreamSettings]:
    """Return the embedded streams as the store keeps them."""
    return {
        name: StreamSettings(
            shards=stream.shards, retention_period=stream.retention_period, retention_bytes=stream.retention_bytes
        )
        for name, stream in pipeline.streams.items()
    }


def pipeline_connections(loaded: LoadedConfig) -> dict[tuple[str, str], Any]:
    """Return the pipeline's connections by kind and name, their files found from the pipeline's folder."""
    config = loaded.config
    return {
        **{("kafka", name): connection.below(loaded.folder) for name, connection in config.kafka.items()},
        **{("http", name): connection for name, connection in config.http.items()},
        **{("bucket", name): place_bucket(each, config.s3, loaded.folder) for name, each in config.buckets.items()},
    }
