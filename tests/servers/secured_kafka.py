"""A Kafka broker whose ports ask who is there: TLS, TLS with client certificates, SASL, and SASL over TLS."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eventcore.clock import SystemClock
from tests.servers.kafka_server import KafkaServer, ServerUnavailable, find_jars
from tests.servers.ports import free_ports

USER, PASSWORD = "ada", "s3cret"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
#: Names of the broker's listeners, and what each speaks.
LISTENERS = {"TLS": "SSL", "MISNAMED": "SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL"}
_LOGIN = "org.apache.kafka.common.security"
#: What the broker runs for each mechanism (`sasl.jaas.config`).
_LOGINS = {
    "plain": f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    "scram-sha-256": f"{_LOGIN}.scram.ScramLoginModule required;",
    "scram-sha-512": f"{_LOGIN}.scram.ScramLoginModule required;",
    "oauthbearer": f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
}


class Certificates:
    """An authority, and what it has signed: for the broker on loopback, for another name, and for a client."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise ServerUnavailable("no `openssl` on the path")
        self._folder = folder
        self.ca = self._sign_itself("ca")
        self.other_ca = self._sign_itself("other")
        self._sign("broker", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self._sign("elsewhere", "subjectAltName=DNS:elsewhere.test")
        self.client = self._sign("client", "extendedKeyUsage=clientAuth")
        self.client_key = folder / "client.key"

    def encrypt_key(self, password: str) -> Path:
        """Return the client's key behind a password."""
        encrypted = self._folder / "client-encrypted.key"
        arguments = ("-topk8", "-in", self.client_key, "-out", encrypted, "-passout", f"pass:{password}")
        self._openssl("pkcs8", *arguments)
        return encrypted

    def key_store(self, name: str) -> Path:
        """Return a key and its certificate in one file, as Kafka wants them."""
        store = self._folder / f"{name}-store.pem"
        self._openssl("pkcs8", "-topk8", "-nocrypt", "-in", self._folder / f"{name}.key", "-out", store)
        store.write_text(store.read_text() + (self._folder / f"{name}.pem").read_text())
        return store

    def _sign_itself(self, name: str) -> Path:
        made = self._folder / f"{name}.pem"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        out = ("-keyout", self._folder / f"{name}.key", "-out", made)
        self._openssl("req", "-x509", *key, *out, "-days", "2", "-subj", f"/CN={name} of the tests")
        return made

    def _sign(self, name: str, extension: str) -> Path:
        made, request, extensions = (self._folder / f"{name}.{kind}" for kind in ("pem", "csr", "ext"))
        extensions.write_text(f"{extension}\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        self._openssl("req", *key, "-keyout", self._folder / f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        authority = ("-CA", self.ca, "-CAkey", self._folder / "ca.key", "-CAcreateserial")
        self._openssl("x509", "-req", "-in", request, *authority, "-out", made, "-days", "2", "-extfile", extensions)
        return made

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def bearer_token(*, expires_in_s: int = 3600) -> str:
    """Return a token as the broker's validator for tests takes it: a JWT without a signature."""
    now = SystemClock().now_ms() // 1000
    parts = ({"alg": "none"}, {"sub": USER, "iat": now - 10, "exp": now + expires_in_s})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


class SecuredKafka:
    """The broker's addresses by listener, and what a client needs for each."""

    def __init__(self, server: KafkaServer, ports: dict[str, int], certificates: Certificates, folder: Path) -> None:
        self.server = server
        self.certificates = certificates
        self._ports = ports
        self.token_file = folder / "token.jwt"
        self.token_file.write_text(f"{bearer_token()}\n")

    def address(self, listener: str, *, host: str = "127.0.0.1") -> str:
        """Return where a listener is."""
        return f"{host}:{self._ports[listener]}"

    def settings(self, listener: str, mechanism: str | None = None) -> dict[str, Any]:
        """Return the settings of a connection that the broker accepts."""
        protocol = LISTENERS[listener]
        settings: dict[str, Any] = {"bootstrap_servers": self.address(listener), "security_protocol": protocol}
        if protocol.endswith("SSL"):
            settings["ssl_cafile"] = str(self.certificates.ca)
        if listener == "MUTUAL":
            settings |= {
                "ssl_certfile": str(self.certificates.client),
                "ssl_keyfile": str(self.certificates.client_key),
            }
        if mechanism == "OAUTHBEARER":
            settings |= {"sasl_mechanism": mechanism, "sasl_oauth_token_file": str(self.token_file)}
        elif mechanism is not None:
            settings |= {"sasl_mechanism": mechanism, "sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
        return settings


def _settings(ports: dict[str, int], certificates: Certificates) -> dict[str, str]:
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    logins = {
        f"listener.name.{listener}.{mechanism}.sasl.jaas.config": login
        for listener in ("sasl", "sasltls")
        for mechanism, login in _LOGINS.items()
    }
    return {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in LISTENERS.items()),
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "listener.name.sasltls.sasl.enabled.mechanisms": ",".join(MECHANISMS[1:]),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.key_store("broker")),
        "listener.name.misnamed.ssl.keystore.type": "PEM",
        "listener.name.misnamed.ssl.keystore.location": str(certificates.key_store("elsewhere")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "listener.name.mutual.ssl.client.auth": "required",
        **logins,
    }


@contextlib.contextmanager
def running_secured_kafka() -> Iterator[SecuredKafka]:
    """Run such a broker for as long as the block lasts.

    Raises:
        ServerUnavailable: Java, the jars or openssl can't be had.
    """
    jars = find_jars()
    with tempfile.TemporaryDirectory(prefix="eventcore-kafka-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        certificates = Certificates(folder)
        ports = dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True))
        users = [f"--add-scram={each}=[name={USER},password={PASSWORD}]" for each in MECHANISMS if "SCRAM" in each]
        settings = _settings(ports, certificates)
        server = KafkaServer(jars, folder, settings=settings, format_arguments=users)
        try:
            server.format()
            server.start()
            yield SecuredKafka(server, ports, certificates, folder)
        finally:
            server.stop()
