"""How a connection proves who it is and whom it talks to: TLS and SASL, and what to say when that fails.

aiokafka reports a wrong password as "Unable to bootstrap"; `explain_refusal` asks a broker once more and finds out why.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from eventcore.config.structs import KafkaConfig
from eventcore_connectors.kafka.token_file import UnusableSecurity, read_token

#: One broker's answer to who we are, and those of all, seconds; brokers hold a refusal back for a tenth of one.
_PROBE_TIMEOUT_S = 1.0
_PROBES_TIMEOUT_S = 3.0


class FileToken(AbstractTokenProvider):
    """The OAUTHBEARER token that stands in a file, read anew for each connection: to renew it, replace the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return the token; raises as `read_token`."""
        return await anyio.to_thread.run_sync(read_token, self._path)


def security_settings(config: KafkaConfig) -> dict[str, Any]:
    """Return what an aiokafka client needs to know of TLS and SASL.

    Raises:
        UnusableSecurity: a certificate or a key can't be loaded.
    """
    settings: dict[str, Any] = {"security_protocol": config.security_protocol}
    if config.security_protocol.endswith("SSL"):
        settings["ssl_context"] = _ssl_context(config)
    if config.security_protocol.startswith("SASL"):
        settings["sasl_mechanism"] = config.sasl_mechanism
        if config.sasl_mechanism == "OAUTHBEARER":
            settings["sasl_oauth_token_provider"] = FileToken(Path(config.sasl_oauth_token_file))
        else:
            settings["sasl_plain_username"] = config.sasl_plain_username
            settings["sasl_plain_password"] = config.sasl_plain_password
    return settings


def _ssl_context(config: KafkaConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ssl_cafile or None)
    except (OSError, ssl.SSLError) as error:
        raise UnusableSecurity(f"ssl_cafile holds no certificates: {config.ssl_cafile} ({_reason(error)})") from error
    context.check_hostname = config.ssl_check_hostname
    if not config.ssl_certfile:
        return context
    # A password is asked for on the terminal unless there is one: an empty one fails instead.
    password = config.ssl_password or ""
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile or None, lambda: password)
    except (OSError, ssl.SSLError, ValueError) as error:
        files = " and ".join(filter(None, (config.ssl_certfile, config.ssl_keyfile)))
        hint = "" if config.ssl_password else "; a key that is encrypted needs ssl_password"
        raise UnusableSecurity(f"no certificate with its key in {files} ({_reason(error)}{hint})") from error
    return context


async def explain_refusal(config: KafkaConfig) -> str:
    """Return why no broker of the connection talks to us, in one sentence; empty when none says why.

    For after a failure: it connects to one broker after the other, as the client did.
    """
    try:
        settings = security_settings(config)
    except UnusableSecurity as error:
        return str(error)
    with anyio.move_on_after(_PROBES_TIMEOUT_S):
        for host, port in _addresses(config):
            with anyio.move_on_after(_PROBE_TIMEOUT_S):
                if told := await _probe(host, port, config, settings):
                    return told
    return ""


async def _probe(host: str, port: int, config: KafkaConfig, settings: dict[str, Any]) -> str:
    try:
        connection = await create_conn(  # type: ignore[no-untyped-call]
            host, port, client_id=config.client_id, request_timeout_ms=config.request_timeout_ms, **settings
        )
    except (errors.KafkaError, OSError, UnusableSecurity) as error:
        return _tell(error, config, f"{host}:{port}")
    try:
        # aiokafka takes a broker's objection to a token for its consent (RFC 7628, section 3.2.2: the objection is a
        # challenge); what the broker then says to any request names no broker.
        if config.sasl_mechanism == "OAUTHBEARER" and not (await connection.send(MetadataRequest([]))).brokers:
            return _tell_refusal("invalid_token", config, f"{host}:{port}")
    except errors.KafkaError as error:
        return _tell_refusal(_reason(error), config, f"{host}:{port}")
    finally:
        connection.close()
    return ""


def _addresses(config: KafkaConfig) -> Iterator[tuple[str, int]]:
    for address in config.bootstrap_servers.split(","):
        host, _, port = address.strip().rpartition(":")
        if port.isdecimal():
            yield host.strip("[]"), int(port)


def _tell(error: BaseException, config: KafkaConfig, address: str) -> str:
    """Return what an error of connecting means; empty for one that has nothing to do with security."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UnusableSecurity | ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, UnusableSecurity):
        return str(cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _tell_verification(cause, config, address)
    if isinstance(cause, ssl.SSLError):
        return _tell_tls(cause, config, address)
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"{address} does not take sasl_mechanism {config.sasl_mechanism} ({_reason(error)})"
    if isinstance(error, errors.AuthenticationFailedError | errors.SaslAuthenticationFailed):
        return _tell_refusal(_reason(error), config, address)
    if isinstance(error, errors.IllegalSaslStateError):
        return f"{address} expects no SASL: write security_protocol without SASL_ ({_reason(error)})"
    if isinstance(error, errors.KafkaConnectionError | ConnectionResetError) and not _is_refused(error):
        return (
            f"{address} ends the connection at once: does this port speak {config.security_protocol}? "
            "(security_protocol)"
        )
    return ""


def _tell_refusal(reason: str, config: KafkaConfig, address: str) -> str:
    who, why = f"user `{config.shown('sasl_plain_username')}`", "a wrong password?"
    if config.sasl_mechanism == "OAUTHBEARER":
        who, why = "the token", f"expired, or not meant for it? It stands in {config.sasl_oauth_token_file}"
    return f"{address} refuses {who} by {config.sasl_mechanism}: {why} ({reason})"


def _is_refused(error: BaseException) -> bool:
    """Tell whether nobody listens, or the name is unknown: what the client's own error says already."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, ConnectionResetError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _tell_verification(error: ssl.SSLCertVerificationError, config: KafkaConfig, address: str) -> str:
    reason = error.verify_message or _reason(error)
    # OpenSSL: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
    if error.verify_code in {62, 64}:
        return f"the certificate of {address} is for another name ({reason}): use that name, or ssl_check_hostname"
    source = f"ssl_cafile {config.ssl_cafile}" if config.ssl_cafile else "this machine's authorities; write ssl_cafile"
    return f"the certificate of {address} is not trusted by {source} ({reason})"


def _tell_tls(error: ssl.SSLError, config: KafkaConfig, address: str) -> str:
    reason = _reason(error)
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        wanted = "refuses the certificate" if config.ssl_certfile else "wants a certificate: write ssl_certfile"
        return f"{address} {wanted} ({reason})"
    return f"{address} does not speak TLS as security_protocol {config.security_protocol} expects ({reason})"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
