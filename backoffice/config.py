"""Settings of the back office, from ``BACKOFFICE_*`` variables."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from backoffice.operators import Tokens
from bridge.config import Settings
from bridge.errors import Misconfigured

MIN_KEY_BYTES = 32  # of an HS256 secret


class BackofficeSettings(Settings):
    """Where the back office listens and who may call it."""

    model_config = SettingsConfigDict(env_prefix="BACKOFFICE_")

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8080, ge=0, le=65_535)  # 0 = a free one
    api_tokens: SecretStr = Field(description="set it to name:role:token,… (viewer, moderator, operator or admin)")
    url: str | None = None  # this and the next are the operators' command line's, and may be set for it
    token: SecretStr | None = None
    demo_chat_key: SecretStr | None = None  # the nodes' HS256 secret; only where anybody may have a chat token

    @field_validator("api_tokens")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        try:
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

    @property
    def tokens(self) -> Tokens:
        return Tokens.parse(self.api_tokens.get_secret_value())
