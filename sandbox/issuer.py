"""An issuer of bearer tokens, as a site's IAM is one: real HTTPS on the loopback, and tokens good and bad.

    issuer = await TokenIssuer(tmp_path).start()
    token = issuer.token(scope="storage.read:/")             # good for an hour
    stale = issuer.token(exp=time.time() - 5)
    issuer.rotate()                                          # signs with another key from now on
    issuer.behaviour.hangs = True                            # and others: slow, redirecting, lying
    issuer.requests["/jwks"]                                 # how often its keys were asked for
    await issuer.stop()

`configured()` is the issuer as a table of the configuration. Signatures are made with cryptography alone, not
with the library that verifies them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from dome_bridge.config_auth import IssuerConfig
from sandbox.pki import Authority, Credential, rsa_key

HOST = "localhost"
AUDIENCE = "https://dpmhead.example.org"
LIFETIME_SECONDS = 3600

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_DIGESTS: Mapping[str, Callable[[], hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def base64url_number(number: int, size: int = 0) -> str:
    """size: in bytes; by default as many as it takes."""
    return base64url(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


def jwk_of(key: PrivateKey, **members: object) -> dict[str, object]:
    """The public JWK of a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        made = {"kty": "RSA", "n": base64url_number(numbers.n), "e": base64url_number(numbers.e)}
    else:
        size = (key.curve.key_size + 7) // 8
        point = key.public_key().public_numbers()
        made = {
            "kty": "EC",
            "crv": _CURVE_NAMES[key.curve.name],
            "x": base64url_number(point.x, size),
            "y": base64url_number(point.y, size),
        }
    return made | members


def signature(key: PrivateKey, alg: str, data: bytes) -> bytes:
    """Of an algorithm that fits the key: RS…, PS… or ES…."""
    digest = _DIGESTS[alg[2:]]()
    if isinstance(key, rsa.RSAPrivateKey):
        if alg.startswith("PS"):
            salted = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            return key.sign(data, salted, digest)
        return key.sign(data, padding.PKCS1v15(), digest)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    size = (key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def compact(header: bytes, payload: bytes, sign: Callable[[bytes], bytes]) -> str:
    """A token of any two documents, be they JSON or not."""
    signing_input = f"{base64url(header)}.{base64url(payload)}"
    return f"{signing_input}.{base64url(sign(signing_input.encode('ascii')))}"


@dataclass(frozen=True, eq=False)
class SigningKey:
    """A key of an issuer under its name."""

    kid: str
    private: PrivateKey
    alg: str = "RS256"

    @classmethod
    def elliptic(cls, kid: str = "", curve: ec.EllipticCurve | None = None, alg: str = "ES256") -> SigningKey:
        return cls(kid or secrets.token_hex(4), ec.generate_private_key(curve or ec.SECP256R1()), alg)

    @property
    def jwk(self) -> dict[str, object]:
        return jwk_of(self.private, kid=self.kid, use="sig", alg=self.alg)

    @property
    def header(self) -> dict[str, object]:
        return {"typ": "at+jwt", "alg": self.alg, "kid": self.kid}

    def sign(self, data: bytes) -> bytes:
        return signature(self.private, self.alg, data)

    def token(self, claims: Mapping[str, object], header: Mapping[str, object] | None = None) -> str:
        """header: members besides the usual, or instead of them; None as a value leaves one out."""
        members = _overlaid(self.header, header or {})
        return compact(json.dumps(members).encode(), json.dumps(claims).encode(), self.sign)


@dataclass
class Behaviour:
    """What the web server does; all of it may be changed while it runs.

    issuer, jwks_uri: what the metadata say instead of the truth. body: answered for every document.
    """

    delay_seconds: float = 0.0
    hangs: bool = False
    status: int = 200
    redirect: str = ""
    issuer: str | None = None
    jwks_uri: str | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    uses_rfc8414: bool = False
    """Only the metadata address of RFC 8414 is there."""


class TokenIssuer:
    """A web server with the metadata and keys of one issuer, and the keys to sign with.

    path: of the issuer's URL, such as "/realms/site/"; it ends as the URL ends. authority: signs the server's
    certificate, `ca_file` has it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        path: str = "",
        name: str = "vo",
        key: SigningKey | None = None,
        authority: Authority | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.now = now
        self.behaviour = Behaviour()
        self.requests: Counter[str] = Counter()
        self.key = key or SigningKey(f"{name}-1", rsa_key())
        self.published: list[Mapping[str, object]] = [self.key.jwk]
        self._path = path
        self._port = 0
        self._runner: web.AppRunner | None = None
        authority = authority or Authority.root("/CN=Issuer CA")
        self.ca_file = directory / f"{name}-ca.pem"
        self.ca_file.write_bytes(authority.pem)
        self._tls = _server_tls(authority.host(HOST), directory / f"{name}-server.pem")

    @property
    def base(self) -> str:
        return f"https://{HOST}:{self._port}"

    @property
    def url(self) -> str:
        """`iss` of its tokens."""
        return f"{self.base}{self._path}"

    @property
    def jwks_uri(self) -> str:
        return f"{self.base}/jwks"

    async def start(self) -> Self:
        """On the port of the last time, if there was one."""
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=0, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = int(self._runner.addresses[0][1])
        return self

    async def stop(self) -> None:
        """Harmless when not started. What it published is kept for the next start."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def configured(self, **changes: Any) -> IssuerConfig:
        """A table of the configuration that finds it here."""
        settings: dict[str, Any] = {
            "name": self.name,
            "issuer": self.url,
            "base_path": (f"/dpm/example.org/home/{self.name}",),
            "ca_file": self.ca_file,
            "allow_private_address": True,
        }
        return IssuerConfig(**settings | changes)

    def rotate(self, key: SigningKey | None = None, *, keeps_old: bool = False) -> SigningKey:
        """Signs with another key, and publishes that one."""
        self.key = key or SigningKey.elliptic()
        self.published = [*(self.published if keeps_old else ()), self.key.jwk]
        return self.key

    def claims(self, **changes: object) -> dict[str, object]:
        """Of a good token; `scope="…"` adds a claim, None takes one away, `wlcg_ver` is `wlcg.ver`."""
        now = int(self.now())
        usual: dict[str, object] = {
            "iss": self.url,
            "sub": "b9127a85-ada",
            "aud": AUDIENCE,
            "exp": now + LIFETIME_SECONDS,
            "nbf": now,
            "iat": now,
            "jti": secrets.token_hex(8),
            "wlcg.ver": "1.0",
        }
        return _overlaid(usual, {name.replace("wlcg_", "wlcg."): value for name, value in changes.items()})

    def token(self, header: Mapping[str, object] | None = None, /, **changes: object) -> str:
        """A good one, but for the changes."""
        return self.key.token(self.claims(**changes), header)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        behaviour = self.behaviour
        self.requests[request.path] += 1
        await asyncio.sleep(3600 if behaviour.hangs else behaviour.delay_seconds)
        if behaviour.redirect:
            raise web.HTTPFound(behaviour.redirect)
        document = self._document(request.path)
        if document is None:
            raise web.HTTPNotFound
        return web.Response(body=document, status=behaviour.status, headers=behaviour.headers)

    def _document(self, path: str) -> bytes | None:
        if path == "/jwks":
            document: object = {"keys": self.published}
        elif path == self._metadata_path:
            document = {
                "issuer": self.url if self.behaviour.issuer is None else self.behaviour.issuer,
                "jwks_uri": self.jwks_uri if self.behaviour.jwks_uri is None else self.behaviour.jwks_uri,
            }
        else:
            return None
        return json.dumps(document).encode() if self.behaviour.body is None else self.behaviour.body

    @property
    def _metadata_path(self) -> str:
        well_known, path = "/.well-known/openid-configuration", self._path.rstrip("/")
        return f"{well_known}{path}" if self.behaviour.uses_rfc8414 else f"{path}{well_known}"


def _overlaid(usual: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def _server_tls(credential: Credential, file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credential.write(file))
    return context
