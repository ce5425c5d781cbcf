"""Switchboard for back ends: commands, tokens for users, the feed, and the verification of webhooks and hooks."""

from .client import Client
from .errors import (
    AlreadyExists,
    BadCursor,
    BadField,
    BadFrame,
    Banned,
    ChatError,
    Forbidden,
    KeyConflict,
    NotFound,
    NotReady,
    Offline,
    RateLimited,
    Refused,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownType,
)
from .feed import Entry, Feed
from .tokens import mint_token
from .types import Event, Member, Message, Page, Role, Stored, Summary
from .webhook import BadSignature, sign, verify

__all__ = [
    "AlreadyExists",
    "BadCursor",
    "BadField",
    "BadFrame",
    "BadSignature",
    "Banned",
    "ChatError",
    "Client",
    "Entry",
    "Event",
    "Feed",
    "Forbidden",
    "KeyConflict",
    "Member",
    "Message",
    "NotFound",
    "NotReady",
    "Offline",
    "Page",
    "RateLimited",
    "Refused",
    "Role",
    "Stored",
    "Summary",
    "TimedOut",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnknownType",
    "mint_token",
    "sign",
    "verify",
]
