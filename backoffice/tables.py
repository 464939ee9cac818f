"""The tables of the back office's own database. Times are milliseconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

operators = Table(
    "operators",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("password", String(200), nullable=False),  # argon2id, encoded with its parameters; empty: none fits
    Column("must_change", Boolean, nullable=False),  # the password is good for choosing another one only
    Column("disabled", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("subject", String(64)),  # whom the login provider knows: SHA-256 of its name and its name for them
    Index("uq_operators_subject", "subject", unique=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),  # becomes ``by`` of what is issued with it
    Column("role", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256; the token itself is shown once and not kept
    Column("created_by", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("operator", String(64), ForeignKey("operators.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("address", String(64), nullable=False),
    Column("agent", String(200), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("chain", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),  # from 1 on, without gaps
    Column("at", BigInteger, nullable=False),
    Column("by", String(100), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False),
    Column("reason", Text),
    Column("address", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("result", String(200), nullable=False),
    Column("of", BigInteger),  # seq of the entry whose result this one tells
    Column("detail", Text, nullable=False),  # JSON
    Column("prev", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("uq_audit_chain_seq", "chain", "seq", unique=True),
    Index("ix_audit_at_id", "at", "id"),
    Index("ix_audit_by_id", "by", "id"),
    Index("ix_audit_target_id", "target", "id"),
    Index("ix_audit_action_id", "action", "id"),
    Index("ix_audit_request_id_id", "request_id", "id"),
)

# Where each chain ends, so that cutting its end off shows as well.
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("chain", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("type", String(64), nullable=False),
    Column("subject", String(97), nullable=False),
    Column("user", String(64)),  # whom it concerns: its subject, or the user its payload names
    Column("by", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("node", String(63)),
    Column("issued_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),  # None while nobody has told of its end
    Column("text", Text, nullable=False),  # what a search for words looks at: reason and payload, folded
    Column("data", Text, nullable=False),  # JSON: the whole record
    Column("requeued_as", String(40)),  # the command that repeats this one, as that one told
    Index("ix_commands_issued_at_id", "issued_at", "id"),
    Index("ix_commands_type_issued_at_id", "type", "issued_at", "id"),
    Index("ix_commands_subject_issued_at_id", "subject", "issued_at", "id"),
    Index("ix_commands_user_issued_at_id", "user", "issued_at", "id"),
    Index("ix_commands_by_issued_at_id", "by", "issued_at", "id"),
    Index("ix_commands_state_issued_at_id", "state", "issued_at", "id"),
    Index("ix_commands_node_issued_at_id", "node", "issued_at", "id"),
)

# How far each shard's record of ended commands was read.
positions = Table(
    "positions",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("last", String(40), nullable=False),
)
