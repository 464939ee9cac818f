"""Tokens and settings: what is refused at start, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from backoffice.config import BackofficeSettings
from backoffice.operators import Caller, Role, Tokens
from bridge.config import load
from bridge.errors import Misconfigured

TOKEN = "0123456789abcdef"


def test_a_token_is_found_with_its_name_and_role() -> None:
    tokens = Tokens.parse(f"ann:admin:{TOKEN}, bo@x.org:viewer:{TOKEN}:with:colons")
    assert tokens.find(TOKEN) == Caller("ann", Role.ADMIN)
    assert tokens.find(f"{TOKEN}:with:colons") == Caller("bo@x.org", Role.VIEWER)
    assert tokens.find("") is None
    assert tokens.find(TOKEN[:-1]) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name:role:token"),
        ("ann", "name:role:token"),
        ("ann:admin", "name:role:token"),
        ("ann:admin:", "name:role:token"),
        (f"ann:admin:{TOKEN},", "entry 2"),
        (f"a b:admin:{TOKEN}", "name 'a b'"),
        (f"{'a' * 65}:admin:{TOKEN}", "name"),
        (f"-:admin:{TOKEN}", "a letter or digit at both ends"),
        (f"a.:admin:{TOKEN}", "a letter or digit at both ends"),
        (f"ann:root:{TOKEN}", "role 'root'"),
        (f"ann:Admin:{TOKEN}", "role 'Admin'"),
        ("ann:admin:0123456789abcde", "16 or more"),
        ("ann:admin:0123456789 abcdef", "visible ASCII"),
        (f"ann:admin:{TOKEN},bo:viewer:{TOKEN}", "entry 2"),
    ],
)
def test_a_bad_entry_is_refused_by_its_number_and_without_its_token(text: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as refused:
        Tokens.parse(text)
    assert TOKEN[:15] not in str(refused.value)


def test_settings_come_from_the_environment_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "tokens"
    secret.write_text(f"ann:admin:{TOKEN}\n")
    monkeypatch.setenv("BACKOFFICE_API_TOKENS", f"file:{secret}")
    monkeypatch.setenv("BACKOFFICE_PORT", "9999")
    monkeypatch.setenv("BACKOFFICE_URL", "http://127.0.0.1:8080")  # what `chatbridge` reads does no harm
    monkeypatch.setenv("BACKOFFICE_TOKEN", TOKEN)
    settings = load(BackofficeSettings)
    assert (settings.host, settings.port, settings.demo_chat_key) == ("127.0.0.1", 9999, None)
    assert settings.tokens.find(TOKEN) == Caller("ann", Role.ADMIN)


@pytest.mark.parametrize(
    "issuer", ["http://login.example", "https://x/?a=b", "https://x/#a", "https://a:b@x", "x", "https:"]
)
def test_a_login_provider_is_reached_privately(monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    for name, value in (("CLIENT_ID", "office"), ("ROLES", "groups:a=admin"), ("CLIENT_SECRET", TOKEN)):
        monkeypatch.setenv(f"BACKOFFICE_OIDC_{name}", value)
    for fine in ("https://login.example/realms/chat", "http://127.0.0.1:9000", "http://localhost"):
        monkeypatch.setenv("BACKOFFICE_OIDC_ISSUER", fine)
        assert load(BackofficeSettings).provider is not None
    monkeypatch.setenv("BACKOFFICE_OIDC_ISSUER", issuer)
    with pytest.raises(Misconfigured, match=r"BACKOFFICE_OIDC_ISSUER=.*: write https://HOST/PATH") as refused:
        load(BackofficeSettings)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BACKOFFICE_PORT", "70000", "BACKOFFICE_PORT='70000'"),
        ("BACKOFFICE_API_TOKENS", f"ann:root:{TOKEN}", "entry 1: role 'root'"),
        ("BACKOFFICE_ADMIN_PASSWORD", "short", "10 to 200 characters"),
        ("BACKOFFICE_TRUSTED_PROXIES", "10.0.0.0/99", "10.0.0.0/99"),
        (
            "BACKOFFICE_HOST",
            "0.0.0.0",
            "BACKOFFICE_HOST='0.0.0.0': passwords and tokens would .* BACKOFFICE_TRUSTED_PROX",
        ),
        ("BACKOFFICE_HOST", "backoffice.example", "BACKOFFICE_HOST='backoffice.example': .*BACKOFFICE_TLS_CERTIFICATE"),
        ("BACKOFFICE_PUBLISHED_ON", "10.0.0.7", "BACKOFFICE_PUBLISHED_ON='10.0.0.7': it may be 127.0.0.1"),
        ("BACKOFFICE_TLS_CERTIFICATE", "/x", "BACKOFFICE_TLS_KEY=None: set both"),
        ("BACKOFFICE_TLS_KEY", "/x", "set both BACKOFFICE_TLS_CERTIFICATE and"),
        ("BACKOFFICE_OIDC_ISSUER", "https://x", "BACKOFFICE_OIDC_ISSUER='https://x': .* BACKOFFICE_OIDC_ROLES"),
        ("BACKOFFICE_OIDC_ROLES", "groups:a=admin", "BACKOFFICE_OIDC_ISSUER=None: BACKOFFICE_OIDC_ROLES is for"),
        ("BACKOFFICE_OIDC_ROLES", "groups", "write CLAIM:GROUP=ROLE"),
        ("BACKOFFICE_OIDC_SCOPES", "profile", "BACKOFFICE_OIDC_SCOPES='profile'"),
        ("BACKOFFICE_DEMO_CHAT_KEY", "short", "32 bytes"),
        ("BACKOFFICE_COLOUR", "red", "unknown setting BACKOFFICE_COLOUR"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv("BACKOFFICE_API_TOKENS", f"ann:admin:{TOKEN}")
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=says) as refused:
        load(BackofficeSettings)
    assert TOKEN not in str(refused.value)
