"""Checks of how Kafka connections prove who they are and whom they talk to."""

from __future__ import annotations

from pathlib import Path

from eventcore.config.findings import Findings
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import KafkaConfig

_USER = ("sasl_plain_username", "sasl_plain_password")
_BEARER = "sasl_oauth_token_file"
_TLS = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")


def lint_security(name: str, connection: KafkaConfig, findings: Findings, folder: Path) -> None:
    """Add what is missing, what contradicts the protocol, and files that are not there."""
    path: KeyPath = ("kafka", name)
    _lint_sasl(path, connection, findings)
    _lint_tls(path, connection, findings)
    for setting in connection.FILES:
        written = getattr(connection, setting)
        if written and not (folder / written).is_file():
            message = f"there is no file `{connection.shown(setting)}`"
            findings.add("EC127", (*path, setting), message, "write its path from the pipeline's folder")


def _lint_sasl(path: KeyPath, connection: KafkaConfig, findings: Findings) -> None:
    protocol, mechanism = connection.security_protocol, connection.sasl_mechanism
    if not protocol.startswith("SASL"):
        hint = f'write security_protocol = "{"SASL_SSL" if protocol == "SSL" else "SASL_PLAINTEXT"}"'
        for setting in ("sasl_mechanism", *_USER, _BEARER):
            if getattr(connection, setting):
                _contradict(findings, path, setting, f"{protocol} says nobody's name: it has no effect", hint)
        return
    if mechanism is None:
        message = f"{protocol} needs to know how this client says who it is"
        _contradict(findings, path, "security_protocol", message, 'write sasl_mechanism = "SCRAM-SHA-512"')
        return
    needed, foreign = ((_BEARER,), _USER) if mechanism == "OAUTHBEARER" else (_USER, (_BEARER,))
    for setting in needed:
        if not getattr(connection, setting):
            _contradict(findings, path, "sasl_mechanism", f"{mechanism} needs {setting}", f'write {setting} = "..."')
    for setting in foreign:
        if getattr(connection, setting):
            hint = f"take it out, or write {' and '.join(needed)}"
            _contradict(findings, path, setting, f"{mechanism} does not use it", hint)


def _lint_tls(path: KeyPath, connection: KafkaConfig, findings: Findings) -> None:
    protocol = connection.security_protocol
    if not protocol.endswith("SSL"):
        hint = f'write security_protocol = "{"SASL_SSL" if protocol.startswith("SASL") else "SSL"}"'
        given = [setting for setting in _TLS if getattr(connection, setting)]
        for setting in [*given, *([] if connection.ssl_check_hostname else ["ssl_check_hostname"])]:
            _contradict(findings, path, setting, f"{protocol} is not encrypted: it has no effect", hint)
        return
    for setting in ("ssl_keyfile", "ssl_password"):
        if getattr(connection, setting) and not connection.ssl_certfile:
            _contradict(findings, path, setting, "a key needs its certificate", 'write ssl_certfile = "client.pem"')


def _contradict(findings: Findings, path: KeyPath, setting: str, message: str, hint: str) -> None:
    findings.add("EC126", (*path, setting), message, hint, depends_on=((*path, "security_protocol"),))
