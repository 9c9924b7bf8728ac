"""Every parameter of AWS's calls is a setting of ours under some name, or is refused with what to do instead.

The parameters are those of the API's references, in the spelling that stands there; templates of CloudFormation and
SAM share it.
"""

from __future__ import annotations

import pytest

from eventcore.config.structs import FilterCriteriaConfig, RedrivePolicy, RetryScheduleConfig
from eventcore.config.unknown import explain_unknown, snake_case
from eventcore.errors import ConfigError

#: What stands for a parameter that is refused.
NO = None

#: By table: call, parameter, and the setting that it is here.
PARAMETERS: dict[str, dict[str, dict[str, str | None]]] = {
    "mappings": {
        "CreateEventSourceMapping": {
            "AmazonManagedKafkaEventSourceConfig": "consumer_group_id",
            "BatchSize": "batch_size",
            "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
            "DestinationConfig": "on_failure",
            "DocumentDBEventSourceConfig": NO,
            "Enabled": "enabled",
            "EventSourceArn": "source",
            "FilterCriteria": "filter_criteria",
            "FunctionName": "function",
            "FunctionResponseTypes": "function_response_types",
            "KMSKeyArn": NO,
            "LoggingConfig": NO,
            "MaximumBatchingWindowInSeconds": "maximum_batching_window_in_seconds",
            "MaximumRecordAgeInSeconds": "maximum_record_age_in_seconds",
            "MaximumRetryAttempts": "maximum_retry_attempts",
            "MetricsConfig": NO,
            "ParallelizationFactor": "parallelization_factor",
            "ProvisionedPollerConfig": NO,
            "Queues": "source",
            "ScalingConfig": "maximum_concurrency",
            "SelfManagedEventSource": NO,
            "SelfManagedKafkaEventSourceConfig": "consumer_group_id",
            "SourceAccessConfigurations": NO,
            "StartingPosition": "starting_position",
            "StartingPositionTimestamp": "starting_position_timestamp",
            "Tags": NO,
            "Topics": "source",
            "TumblingWindowInSeconds": "tumbling_window_in_seconds",
        },
        "members of its structures": {
            "ConsumerGroupId": "consumer_group_id",
            "MaximumConcurrency": "maximum_concurrency",
            "OnFailure": "on_failure",
            "OnSuccess": NO,
            "SchemaRegistryConfig": NO,
        },
    },
    "functions": {
        "CreateFunction": {
            "Architectures": NO,
            "CapacityProviderConfig": NO,
            "Code": "code",
            "CodeSigningConfigArn": NO,
            "DeadLetterConfig": "dead_letter_queue",
            "Description": NO,
            "DurableConfig": NO,
            "Environment": "environment",
            "EphemeralStorage": "ephemeral_storage",
            "FileSystemConfigs": NO,
            "FunctionName": NO,
            "Handler": "handler",
            "ImageConfig": NO,
            "KMSKeyArn": NO,
            "Layers": NO,
            "LoggingConfig": NO,
            "MemorySize": "memory_size",
            "PackageType": NO,
            "Publish": NO,
            "PublishTo": NO,
            "Role": NO,
            "Runtime": "runtime",
            "SnapStart": NO,
            "Tags": NO,
            "TenancyConfig": NO,
            "Timeout": "timeout",
            "TracingConfig": NO,
            "VpcConfig": NO,
        },
        "members of its code": {
            "ImageUri": NO,
            "S3Bucket": NO,
            "S3Key": NO,
            "S3ObjectVersion": NO,
            "SourceKMSKeyArn": NO,
            "ZipFile": NO,
        },
        "PutFunctionConcurrency": {"ReservedConcurrentExecutions": "reserved_concurrent_executions"},
        "PutFunctionEventInvokeConfig": {
            "DestinationConfig": "on_failure",
            "MaximumEventAgeInSeconds": "maximum_event_age_in_seconds",
            "MaximumRetryAttempts": "maximum_retry_attempts",
            "OnFailure": "on_failure",
            "OnSuccess": "on_success",
            "Qualifier": NO,
        },
        "PutFunctionRecursionConfig": {"RecursiveLoop": "recursive_loop"},
        "members of templates": {"Events": NO, "EventInvokeConfig": NO, "Policies": NO, "CodeUri": "code"},
    },
    "queues": {
        "CreateQueue": {"QueueName": NO, "Tags": NO},
        "SetQueueAttributes": {
            "QueueUrl": NO,
            "ContentBasedDeduplication": "content_based_deduplication",
            "DeduplicationScope": "deduplication_scope",
            "DelaySeconds": "delay",
            "FifoQueue": "fifo_queue",
            "FifoThroughputLimit": NO,
            "KmsDataKeyReusePeriodSeconds": NO,
            "KmsMasterKeyId": NO,
            "MaximumMessageSize": "maximum_message_size",
            "MessageRetentionPeriod": "message_retention_period",
            "Policy": NO,
            "ReceiveMessageWaitTimeSeconds": NO,
            "RedriveAllowPolicy": NO,
            "RedrivePolicy": "redrive_policy",
            "SqsManagedSseEnabled": NO,
            "VisibilityTimeout": "visibility_timeout",
        },
    },
    "streams": {
        "CreateStream": {
            "MaxRecordSizeInKiB": NO,
            "ShardCount": "shards",
            "StreamModeDetails": NO,
            "StreamName": NO,
            "Tags": NO,
            "WarmThroughputMiBps": NO,
        },
        "IncreaseStreamRetentionPeriod": {"RetentionPeriodHours": "retention_period"},
        "StartStreamEncryption": {"KeyId": NO, "EncryptionType": NO},
    },
}  # fmt: skip


def _cases() -> list[tuple[str, str, str | None]]:
    found = {
        (table, parameter, ours)
        for table, calls in PARAMETERS.items()
        for parameters in calls.values()
        for parameter, ours in parameters.items()
    }
    return sorted(found, key=str)


def _say(load, table: str, key: str) -> tuple[str, str] | None:
    """Return what is said about a key in its table, and what is to be done; None where the table has it."""
    place = f"{table}.x.{key}"
    try:
        load(f"[{table}.x]\n{key} = 1\n")
    except ConfigError as error:
        said = [mistake for mistake in error.mistakes if mistake.path == place]
        return (said[0].message, said[0].hint) if said else None
    return None


@pytest.mark.parametrize(("table", "parameter", "ours"), _cases())
def test_each_parameter_of_aws_is_a_setting_or_is_refused_with_what_to_do_instead(load, table, parameter, ours):
    first, *others = snake_case(parameter).split("_")
    in_camel_case = first + "".join(other.capitalize() for other in others)
    for key in (parameter, in_camel_case, snake_case(parameter)):
        said = _say(load, table, key)
        if key == ours:
            assert said is None or not said[0].startswith("there is no")
            continue
        assert said is not None
        message, hint = said
        if ours is NO:
            assert message.startswith(f"`{key}` is refused: ")
            assert hint.startswith(("take it out", "write ", "set ", "send ", "unpack "))
        else:
            assert message == f"there is no `{key}`: eventcore calls it `{ours}`"
            assert hint.startswith(f"write `{ours}`")


@pytest.mark.parametrize(
    ("key", "ours"), [("deadLetterTargetArn", "dead_letter_queue"), ("maxReceiveCount", "max_receive_count")]
)
def test_the_members_of_a_redrive_policy_are_told_their_names(key, ours):
    assert explain_unknown(RedrivePolicy, key)[0] == f"there is no `{key}`: eventcore calls it `{ours}`"


@pytest.mark.parametrize(("section", "key"), [(FilterCriteriaConfig, "topics"), (RetryScheduleConfig, "layers")])
def test_what_is_refused_as_a_table_is_only_unknown_within_a_setting(section, key):
    assert explain_unknown(section, key)[0] == f"there is no `{key}`"
