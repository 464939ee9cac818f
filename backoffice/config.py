"""Settings of the back office, from ``BACKOFFICE_*`` variables."""

from __future__ import annotations

from pathlib import Path
from socket import gethostname
from ssl import SSLContext

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict
from yarl import URL

from backoffice.groups import Groups
from backoffice.oidc import Provider, is_private
from backoffice.operators import Tokens
from backoffice.passwords import MAX_CHARS, MIN_CHARS
from backoffice.proxies import Proxies, is_loopback
from backoffice.tls import server_context
from bridge.config import Settings
from bridge.errors import Misconfigured

MIN_KEY_BYTES = 32  # of an HS256 secret
_PRIVATE = "name a TLS proxy in BACKOFFICE_TRUSTED_PROXIES, or set BACKOFFICE_TLS_CERTIFICATE and BACKOFFICE_TLS_KEY"


class BackofficeSettings(Settings):
    """Where the back office listens and who may call it."""

    model_config = SettingsConfigDict(env_prefix="BACKOFFICE_")

    port: int = Field(8080, ge=0, le=65_535)  # 0 = a free one
    api_tokens: SecretStr | None = None  # name:role:token,… beside those made in the back office
    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///backoffice-data/backoffice.sqlite3")
    admin_password: SecretStr | None = None  # of the first admin; None: one is made up, and told at the first start
    trusted_proxies: str | None = None  # addresses and networks whose X-Forwarded-For and -Proto are believed
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None  # None: the provider knows this client as a public one
    oidc_roles: str | None = None  # which group of which claim has which role
    oidc_scopes: str = Field("openid profile email", pattern=r"^(.* )?openid( .*)?$")
    oidc_issuer: str | None = Field(None, validate_default=True)  # None: passwords only
    tls_certificate: Path | None = None  # both, or none
    tls_key: Path | None = Field(None, validate_default=True)
    published_on: str | None = None  # of a container's port
    host: str = Field("127.0.0.1", min_length=1)  # read after what decides whether it is all right
    name: str = Field(default_factory=gethostname, pattern=r"^[\x21-\x7e]{1,64}$")  # of its audit chain
    url: str | None = None  # this and the next are the operators' command line's, and may be set for it
    token: SecretStr | None = None
    demo_chat_key: SecretStr | None = None  # the nodes' HS256 secret; only where anybody may have a chat token

    @field_validator("api_tokens")
    @classmethod
    def _readable(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is not None:
                Tokens.parse(value.get_secret_value())
        except Misconfigured as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("demo_chat_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_KEY_BYTES:
            raise ValueError(f"the key needs {MIN_KEY_BYTES} bytes or more")
        return value

    @field_validator("admin_password")
    @classmethod
    def _not_short(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not MIN_CHARS <= len(value.get_secret_value()) <= MAX_CHARS:
            raise ValueError(f"a password has {MIN_CHARS} to {MAX_CHARS} characters")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str | None) -> str | None:
        Proxies.parse(value or "")
        return value

    @field_validator("tls_key")
    @classmethod
    def _pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("tls_certificate")
        if value is None and certificate is None:
            return None
        if value is None or certificate is None:
            raise ValueError("set both BACKOFFICE_TLS_CERTIFICATE and BACKOFFICE_TLS_KEY, or neither")
        try:
            server_context(certificate, value)
        except Misconfigured as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("published_on")
    @classmethod
    def _loopback(cls, value: str | None) -> str | None:
        if value is not None and not is_loopback(value):
            raise ValueError("it may be 127.0.0.1 or another loopback address only; beyond it, leave this out and "
                             f"{_PRIVATE}")  # fmt: skip
        return value

    @field_validator("host")
    @classmethod
    def _private(cls, value: str, info: ValidationInfo) -> str:
        ways = ("tls_key", "trusted_proxies", "published_on")
        if not is_loopback(value) and not any(info.data.get(way) for way in ways):
            raise ValueError(
                f"passwords and tokens would travel in plain HTTP beyond this machine; {_PRIVATE}, or say "
                "BACKOFFICE_PUBLISHED_ON=127.0.0.1 where a container's port is published there only"
            )
        return value

    @field_validator("oidc_roles")
    @classmethod
    def _groups(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                Groups.parse(value)
        except Misconfigured as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("oidc_issuer")
    @classmethod
    def _provider(cls, value: str | None, info: ValidationInfo) -> str | None:
        given = [name for name in ("oidc_client_id", "oidc_client_secret", "oidc_roles") if info.data.get(name)]
        if value is None:
            if given:
                raise ValueError(f"BACKOFFICE_{given[0].upper()} is for a login provider; set its address, too")
            return None
        if not {"oidc_client_id", "oidc_roles"} <= set(given):
            raise ValueError("a login provider takes BACKOFFICE_OIDC_CLIENT_ID and BACKOFFICE_OIDC_ROLES, too")
        url = URL(value)
        if not is_private(url) or url.query_string or url.fragment or url.user:
            raise ValueError("write https://HOST/PATH, as the provider's own documents have it (http on loopback only)")
        return value

    @property
    def provider(self) -> Provider | None:
        if self.oidc_issuer is None or self.oidc_client_id is None or self.oidc_roles is None:
            return None
        secret = None if self.oidc_client_secret is None else self.oidc_client_secret.get_secret_value()
        return Provider(self.oidc_issuer, self.oidc_client_id, secret, Groups.parse(self.oidc_roles), self.oidc_scopes)

    @property
    def tls(self) -> SSLContext | None:
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return server_context(self.tls_certificate, self.tls_key)

    @property
    def proxies(self) -> Proxies:
        return Proxies.parse(self.trusted_proxies or "", published_here=self.published_on is not None)

    @property
    def tokens(self) -> Tokens:
        return Tokens({}) if self.api_tokens is None else Tokens.parse(self.api_tokens.get_secret_value())
