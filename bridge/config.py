"""Settings: frozen, from ``BRIDGE_*`` variables, refused at construction with the value and the remedy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.errors import Misconfigured
from bridge.registry import message_of
from bridge.shards import DEFAULT_SHARDS
from bridge.verdict import Limits

URL_CHOICES = (
    "embedded://PATH, unix://PATH, redis://HOST:PORT, rediss://HOST:PORT, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, redis+cluster://HOST:PORT,HOST:PORT"
)

S = TypeVar("S", bound="Settings")


class Settings(BaseSettings):
    """Base of the three settings models: read ``PREFIX_*`` variables and ``.env``, refuse what nobody reads.

    A value that begins with ``file:`` is read from that file, for secrets directories.
    """

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings

    @field_validator("*", mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("file:"):
            path = Path(value.removeprefix("file:"))
            try:
                return path.read_text().strip()
            except OSError as error:
                raise ValueError(f"cannot read {path}: {error.strerror}") from None
        return value


def load(model: type[S], **overrides: Any) -> S:
    """Settings from the environment. Raises Misconfigured naming every variable, its value and the remedy."""
    prefix = str(model.model_config.get("env_prefix"))
    unknown = _unknown(model, prefix)
    if unknown:
        known = ", ".join(sorted(f"{prefix}{name.upper()}" for name in model.model_fields))
        raise Misconfigured(f"unknown setting {', '.join(unknown)}; {prefix}* may be {known}")
    try:
        return model(**overrides)
    except ValidationError as error:
        raise Misconfigured("\n".join(_explain(model, prefix, fault) for fault in error.errors())) from None


def shown(settings: Settings) -> dict[str, Any]:
    """Every variable and its value, as may be told: secrets are masked."""
    prefix = str(settings.model_config.get("env_prefix"))
    values: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = "****"
        elif not isinstance(value, str | int | float | tuple | None):
            value = str(value)
        values[f"{prefix}{name.upper()}"] = value
    return values


def _unknown(model: type[Settings], prefix: str) -> list[str]:
    given: Mapping[str, Any] = {**dotenv_values(".env"), **os.environ}
    known = {f"{prefix}{name}".upper() for name in model.model_fields}
    return sorted(name for name in given if name.upper().startswith(prefix) and name.upper() not in known)


def _explain(model: type[Settings], prefix: str, fault: Any) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    field = model.model_fields.get(name)
    secret = field is not None and "Secret" in str(field.annotation)
    shown = "****" if secret else repr(fault["input"])
    variable = f"{prefix}{name.upper()}"
    if fault["type"] == "missing":
        return f"{variable} is not set; {field.description if field else 'set it'}"
    return f"{variable}={shown}: {message_of(fault['type'], fault['msg'])}"


class BridgeSettings(Settings):
    """What every process of one installation must agree on, and the limits of handling."""

    model_config = SettingsConfigDict(env_prefix="BRIDGE_")

    redis_url: SecretStr = Field(description=f"set it to one of {URL_CHOICES}")
    namespace: str = Field("chat", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    shards: int = Field(DEFAULT_SHARDS, ge=1, le=1024)
    lease_seconds: float = Field(1.5, ge=0.5, le=60)
    max_attempts: int = Field(5, ge=1, le=100)
    max_deaths: int = Field(3, ge=2, le=100)
    handler_seconds: float = Field(10, gt=0, le=3600)
    backoff_seconds: float = Field(0.2, gt=0, le=10)
    max_in_flight: int = Field(100, ge=1, le=10_000)
    backlog_limit: int = Field(10_000, ge=1, le=10_000_000)
    outcome_seconds: int = Field(3600, ge=1, le=31_536_000)
    settled_length: int = Field(10_000, ge=1, le=10_000_000)
    dead_length: int = Field(10_000, ge=1, le=1_000_000)
    channel_length: int = Field(1000, ge=1, le=1_000_000)
    history_length: int = Field(1000, ge=1, le=1_000_000)
    allow_volatile: bool = False
    wait_replicas: int = Field(0, ge=0, le=10)  # that must have a command before it counts as accepted
    journal: Path | None = None  # a directory; None or "off": this process keeps none
    plugins: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("journal", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "off" else value

    @field_validator("plugins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def limits(self) -> Limits:
        return Limits(self.max_attempts, self.max_deaths, self.backoff_seconds)
