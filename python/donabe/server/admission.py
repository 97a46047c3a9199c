"""Who is calling and whether he may: key, scope, rate. Decided once per request, before its body is read.

Without keys everybody who reaches the server may do everything (the server then listens on this machine only, unless
told otherwise). A caller's key is also his fairness group, his priority and the salt of his share of the prefix cache.
Callers without keys are told apart by address, for limits and fairness only: they share the cache.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from donabe.server.errors import ForbiddenError, UnauthorizedError
from donabe.server.keys import PRIORITIES, ApiKey, KeyRing, Scope
from donabe.server.limits import CallerLimits, Limits
from donabe.types import Scheduling


@dataclass(frozen=True)
class Caller:
    """An admitted caller.

    Attributes:
        id: Key id, or the address of a caller without one.
        owner: Whose stored things he sees: the key id, or "", shared by all without keys.
        scheduling: What the engine is told of him.
        charge: Takes his output tokens; None when nobody counts them.
    """

    id: str
    owner: str
    scheduling: Scheduling
    charge: Callable[[int], None] | None = None


class Admission:
    """Checks callers against keys and limits.

    Args:
        defaults: Limits of callers whose key has none of its own.
    """

    def __init__(self, keys: KeyRing, *, defaults: Limits | None = None, limits: CallerLimits | None = None) -> None:
        self._keys = keys
        self._defaults = defaults or Limits()
        self._limits = limits or CallerLimits()

    def admit(self, request: Request, scope: Scope | None) -> Caller:
        """Let the request in, counting it; call `leave` when it has ended.

        Args:
            scope: What the route needs; None is open to everybody.

        Raises:
            UnauthorizedError, ForbiddenError, TooManyRequestsError: As they say.
        """
        key = self._key_of(request, scope)
        owner = request.scope["donabe.key"] = key.id if key is not None else ""  # now: refusals are logged with it, too
        if key is not None and scope is not None and not key.allows(scope):
            raise ForbiddenError(f"the API key's scope is {key.scope}, this needs {scope}")
        caller_id = key.id if key is not None else _place_of(request)
        limits = self._limits_of(key)
        if scope is not None:
            self._limits.begin(caller_id, limits)
        scheduling = Scheduling(
            caller=caller_id,
            cache_salt=owner,
            priority=PRIORITIES[key.priority] if key is not None else 0,
            request_id=request.scope.get("donabe.request_id", ""),
        )
        charge = (lambda n: self._limits.charge(caller_id, n)) if limits.tokens_per_minute else None
        return Caller(caller_id, owner, scheduling, charge)

    def leave(self, caller: Caller, scope: Scope | None) -> None:
        if scope is not None:
            self._limits.end(caller.id)

    def _key_of(self, request: Request, scope: Scope | None) -> ApiKey | None:
        if scope is None or not self._keys.is_required:
            return None
        text = _presented_key(request)
        if not text:
            raise UnauthorizedError("an API key is required", hint="send it as Authorization: Bearer KEY")
        key = self._keys.find(text)
        if key is None:
            raise UnauthorizedError("the API key is not valid", hint="it may have been revoked; ask for a new one")
        return key

    def _limits_of(self, key: ApiKey | None) -> Limits:
        if key is None:
            return self._defaults
        return Limits(
            requests_per_minute=key.requests_per_minute or self._defaults.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute or self._defaults.tokens_per_minute,
            max_concurrent=key.max_concurrent or self._defaults.max_concurrent,
        )


def _place_of(request: Request) -> str:
    """The caller's address; of IPv6 the network, whose other addresses are his, too."""
    host = request.client.host if request.client is not None else "local"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _presented_key(request: Request) -> str:
    """The key in any of the headers clients use."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and text.strip():
        return text.strip()
    return request.headers.get("x-api-key", "").strip()


def caller_of(request: Request) -> Caller:
    """The caller the request was admitted as."""
    caller: Caller = request.state.caller
    return caller


def scheduling_for(request: Request, model: str) -> Scheduling:
    """How a call of this request is scheduled. The model is what it asks for, noted for the log."""
    request.scope["donabe.model"] = model
    return caller_of(request).scheduling
