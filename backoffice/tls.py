"""TLS of the back office's own, where no proxy in front has it."""

from __future__ import annotations

import ssl
from pathlib import Path

from bridge.errors import Misconfigured


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a listener takes; read once, so that a renewed certificate takes a restart. Raises Misconfigured."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            f"certificate {certificate} and key {key} cannot be used ({error.strerror or error}); "
            "give two PEM files that belong together, the key without a passphrase"
        ) from None
    return context
