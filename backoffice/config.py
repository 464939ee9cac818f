"""Settings of the back office, from ``BACKOFFICE_*`` variables."""

from __future__ import annotations

from socket import gethostname

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from backoffice.operators import Tokens
from backoffice.passwords import MAX_CHARS, MIN_CHARS
from backoffice.proxies import Proxies
from bridge.config import Settings
from bridge.errors import Misconfigured

MIN_KEY_BYTES = 32  # of an HS256 secret


class BackofficeSettings(Settings):
    """Where the back office listens and who may call it."""

    model_config = SettingsConfigDict(env_prefix="BACKOFFICE_")

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8080, ge=0, le=65_535)  # 0 = a free one
    api_tokens: SecretStr | None = None  # name:role:token,… beside those made in the back office
    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///backoffice-data/backoffice.sqlite3")
    admin_password: SecretStr | None = None  # of the first admin; None: one is made up, and told at the first start
    trusted_proxies: str | None = None  # addresses and networks whose X-Forwarded-For and -Proto are believed
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

    @property
    def proxies(self) -> Proxies:
        return Proxies.parse(self.trusted_proxies or "")

    @property
    def tokens(self) -> Tokens:
        return Tokens({}) if self.api_tokens is None else Tokens.parse(self.api_tokens.get_secret_value())
