"""Kafka's security settings: what is missing or contradicts is told, and secrets are never shown."""

from __future__ import annotations

import pytest

from eventcore.config.effective import explain, resolve
from eventcore.config.structs import KafkaConfig
from eventcore.engine.definitions import pipeline_connections
from eventcore.errors import ConfigError

USER = 'sasl_plain_username = "ada"\nsasl_plain_password = "s3cret"\n'


def told(load, settings):
    with pytest.raises(ConfigError) as caught:
        load(f'[kafka.local]\nbootstrap_servers = "127.0.0.1:9092"\n{settings}')
    return [(mistake.path.removeprefix("kafka.local."), mistake.message) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("settings", "path", "message"),
    [
        ('security_protocol = "SASL_SSL"\n', "security_protocol", "needs to know how this client says who it is"),
        ('security_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\n', "sasl_mechanism", "needs sasl_plain_username"),
        (
            'security_protocol = "SASL_SSL"\nsasl_mechanism = "OAUTHBEARER"\n',
            "sasl_mechanism",
            "needs sasl_oauth_token_file",
        ),
        ('sasl_mechanism = "PLAIN"\n', "sasl_mechanism", "has no effect"),
        (f'security_protocol = "SSL"\n{USER}', "sasl_plain_username", "has no effect"),
        ("ssl_check_hostname = false\n", "ssl_check_hostname", "PLAINTEXT is not encrypted"),
        ('security_protocol = "SSL"\nssl_password = "x"\n', "ssl_password", "a key needs its certificate"),
        ('security_protocol = "SSL"\nssl_cafile = "gone.pem"\n', "ssl_cafile", "there is no file `gone.pem`"),
        ('sasl_mechanism = "GSSAPI"\n', "sasl_mechanism", '"GSSAPI" is not'),
    ],
)
def test_a_contradiction_is_told_where_it_stands(load, settings, path, message):
    assert any(where == path and message in what for where, what in told(load, settings))


def test_a_token_and_a_user_are_not_both_used(load, tmp_path):
    (tmp_path / "token.jwt").write_text("x")
    settings = f'security_protocol = "SASL_SSL"\nsasl_mechanism = "PLAIN"\n{USER}sasl_oauth_token_file = "token.jwt"\n'
    assert told(load, settings) == [("sasl_oauth_token_file", "PLAIN does not use it")]


def test_secrets_are_never_shown(load):
    loaded = load(
        '[kafka.local]\nbootstrap_servers = "127.0.0.1:9092"\nsecurity_protocol = "SASL_PLAINTEXT"\n'
        f'sasl_mechanism = "PLAIN"\n{USER}'
    )
    connection = loaded.config.kafka["local"]
    assert connection.sasl_plain_password == "s3cret"
    rows = {row.path: row.value for row in explain(resolve(loaded))}
    assert rows["kafka.local.sasl_plain_password"] == "***"
    assert rows["kafka.local.sasl_plain_username"] == "ada"
    (placed,) = pipeline_connections(loaded).values()
    assert all("s3cret" not in text for text in (repr(connection), repr(placed), str(connection.masked())))


def test_files_are_found_from_the_pipelines_folder(load, tmp_path):
    (tmp_path / "ca.pem").write_text("")
    settings = 'security_protocol = "SSL"\nssl_cafile = "ca.pem"\n'
    loaded = load(f'[kafka.local]\nbootstrap_servers = "127.0.0.1:9092"\n{settings}')
    (connection,) = pipeline_connections(loaded).values()
    assert isinstance(connection, KafkaConfig)
    assert connection.ssl_cafile == str(tmp_path / "ca.pem")
    assert connection.ssl_certfile == ""
