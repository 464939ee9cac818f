"""Settings of a chat node: ``CHATSERVER_*``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from bridge.chat.commands import MAX_TEXT_CHARS
from bridge.config import Settings
from bridge.envelope import NODE_NAME
from bridge.process import host_name


class ChatSettings(Settings):
    """What one node is told; what all must agree on is in ``BridgeSettings``."""

    model_config = SettingsConfigDict(env_prefix="CHATSERVER_")

    host: str = "127.0.0.1"
    port: int = Field(9001, ge=0, le=65535, description="0 = a free one")
    node_name: str = Field(default_factory=host_name, pattern=rf"^(?:{NODE_NAME.pattern})$")
    jwt_key: SecretStr = Field(
        description="set it to a random secret of at least 32 bytes that signs HS256 tokens, to the JSON of a JWKS, "
        "to file:PATH of either, or to the https:// address of a JWKS"
    )
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="web pages that may connect, such as https://chat.example; * = any; none = only programs; "
        "empty = programs and pages of the node's own address",
    )
    messages_per_s: float = Field(20, gt=0, le=1000)
    text_chars: int = Field(500, ge=1, le=MAX_TEXT_CHARS)
    words_file: Path | None = None
    heartbeat_seconds: float = Field(25, gt=0, le=600)
    drain_seconds: float = Field(20, gt=0, le=600)
    public_url: str | None = Field(None, description="where clients reach this node, if not at host and port")
    uvloop: bool = True
    demo_page: bool = Field(
        False, description="a chat page at /, where anybody who reaches this node may sign in under any name"
    )
    log_json: bool | None = Field(None, description="one JSON object a line; by default unless on a terminal")

    @field_validator("origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
