# Copyright (c) 2026 the verl.baremetal authors
# SPDX-License-Identifier: Apache-2.0
"""What a host remembers of a rollout: one small JSON document, its phases, and who may work on the host.

Pure: every function takes a document and returns a new one. Time comes in as a number (the controller's clock), so
that hosts with a wrong clock do not confuse a report.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Tuple

SCHEMA = 1
PHASES = ("new", "preparing", "prepared", "draining", "changing", "checking", "returning", "done", "failed")
#: Phases in which a controller is at work on what the host serves: the host may be out of service.
ACTIVE = ("draining", "changing", "checking", "returning")
_NEXT: Dict[str, Tuple[str, ...]] = {
    "new": ("preparing", "prepared"),
    "preparing": ("prepared",),
    "prepared": ("draining",),
    "draining": ("changing",),
    "changing": ("checking",),
    "checking": ("returning",),
    "returning": ("done",),
    "done": (),
    "failed": (),
}

Document = Dict[str, Any]


class StateError(Exception):
    """A request that the document does not allow; the text says what was found, what is needed and what to do."""


def empty() -> Document:
    """The document of a host that no rollout has touched."""
    return {
        "schema": SCHEMA,
        "key": "",
        "direction": "activate",
        "phase": "new",
        "release": None,
        "previous": None,
        "batch": 0,
        "attempt": 0,
        "touched": False,
        "drained": False,
        "activation": {},
        "failure": None,
        "times": {},
        "claim": None,
    }


def parse(text: str) -> Document:
    """Read a document; a damaged one raises ValueError, one of a newer schema StateError."""
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("schema"), int):
        raise ValueError("not a rollout state")
    if found["schema"] > SCHEMA:
        raise StateError(
            f"the rollout state has schema {found['schema']} and this collection knows {SCHEMA};"
            " use the collection's version that wrote it, or a newer one"
        )
    document = empty()
    document.update({name: found[name] for name in document if name in found})
    if document["phase"] not in PHASES or not all(isinstance(document[name], dict) for name in ("times", "activation")):
        raise ValueError("not a rollout state")
    if document["claim"] is not None and not _is_claim(document["claim"]):
        raise ValueError("not a rollout state")
    return document


def dump(document: Document) -> str:
    """The document as it is written to the host."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def is_done(document: Document, key: str, direction: str, live: Optional[str]) -> bool:
    """True when this very rollout has finished here and its release is still the live one."""
    return bool(
        document["phase"] == "done"
        and document["key"] == key
        and document["direction"] == direction
        and document["release"]
        and document["release"] == live
    )


def holder(document: Document, token: str, now: float) -> Optional[Dict[str, Any]]:
    """The claim of somebody else that still counts, or None."""
    claim = document["claim"]
    if not claim or claim["token"] == token or claim["until"] <= now:
        return None
    return dict(claim)


def claim(document: Document, key: str, direction: str, who: Dict[str, Any], now: float, force: bool) -> Document:
    """Take the host for a rollout. A claim of another rollout that still counts refuses, unless forced."""
    other = holder(document, str(who["token"]), now)
    if other and not force:
        raise StateError(
            f"another rollout holds this host: {other['controller']} (process {other['pid']}), for at most"
            f" {max(1, int(other['until'] - now))} s more; it must end first, or set rollout_takeover=true"
            " if you know that it no longer runs"
        )
    # Given back before anything was recorded, the host is as it was: another run's claim that ran out is that run's still.
    over = dict(document, claim=_bare(document["claim"]))
    taken = dict(document) if (document["key"], document["direction"]) == (key, direction) else _restart(document)
    if taken["phase"] == "done":
        taken = _restart(taken)
    taken.update(key=key, direction=direction, claim=dict(who, over=over))
    return taken


def record(document: Document, phase: str, token: str, now: float, fields: Optional[Dict[str, Any]] = None) -> Document:
    """Enter a phase. Only the holder of the claim may, and only forward; a resumed host starts again at its drain."""
    if phase not in PHASES:
        raise StateError(f"unknown phase {phase!r}; known are {', '.join(PHASES)}")
    if not is_held(document, token):
        other = document["claim"]
        raise StateError(
            "this rollout no longer holds the host: "
            + (f"{other['controller']} (process {other['pid']}) does" if other else "its claim is gone")
            + "; look which rollout is running, then run yours again"
        )
    before = document["phase"]
    if not _allowed(before, phase):
        raise StateError(f"a host cannot go from phase {before!r} to {phase!r}; run the rollout again from the start")
    after = dict(document)
    after["times"] = dict(document["times"])
    if phase == "draining":
        after["attempt"] = int(document["attempt"]) + 1
        after["failure"] = None
        after["drained"] = True
        after["times"] = {name: value for name, value in after["times"].items() if name in ("preparing", "prepared")}
    after["times"][phase] = round(now, 3)
    after["phase"] = phase
    if phase == "changing":
        after["touched"] = True
    if phase == "done":
        after["touched"] = after["drained"] = False
    after = _with_fields(after, fields)
    after["claim"] = None if phase in ("done", "failed") else _longer(document["claim"], now)
    return after


def is_held(document: Document, token: str) -> bool:
    """True when the run still has the host: nobody took it over or gave it back."""
    return bool(document["claim"]) and document["claim"]["token"] == token


def renew(document: Document, token: str, now: float, fields: Optional[Dict[str, Any]] = None) -> Document:
    """Keep the claim for longer and note fields, in the same phase; a document of somebody else's stays as it is."""
    if not is_held(document, token):
        return document
    return dict(_with_fields(document, fields), claim=_longer(document["claim"], now))


def with_previous(
    document: Document, phase: str, live: Optional[str], fields: Optional[Dict[str, Any]]
) -> Dict[str, Any]:
    """The fields of a record, with the release to go back to: noted once, before anything is switched."""
    noted = dict(fields or {})
    if phase == "draining" and "previous" not in noted:
        wanted = noted.get("release", document["release"])
        noted["previous"] = live if live != wanted else document["previous"]
    return noted


def with_activation(
    document: Document, phase: str, live: Optional[str], fields: Optional[Dict[str, Any]]
) -> Dict[str, Any]:
    """The fields of a record, with what the last rollout was to change here: from which release, to which.

    The host's history cannot tell: a release that failed its gate is in it, one that was only prepared is not.
    """
    noted = dict(fields or {})
    if document["direction"] != "activate" or phase not in ("preparing", "prepared"):
        return noted
    known = dict(document["activation"])
    now = live or ""
    if phase == "preparing":
        again = known.get("key") == document["key"] and now in (known.get("from"), known.get("to"))
        if again and "live" not in known:
            return noted
        noted["activation"] = dict(known, key=document["key"], live=now)
    elif "live" in known:
        before, wanted = known.pop("live"), noted.get("release", document["release"])
        noted["activation"] = known if before == wanted else dict(known, **{"from": before, "to": wanted})
    return noted


def undone(document: Document, live: Optional[str]) -> str:
    """The release on which the host is when its last rollout is undone; "" when no rollout made live what is live."""
    known = document["activation"]
    if live and ("live" in known or live == known.get("from")):
        return live
    return str(known["from"]) if live and live == known.get("to") else ""


def let_go(document: Document, token: str) -> Document:
    """Give the claim back, if it is ours."""
    if not is_held(document, token):
        return document
    return dict(document["claim"].get("over") or dict(document, claim=None))


def order(hosts: List[str], documents: Dict[str, Document]) -> List[str]:
    """Hosts in the order of activation: those that an interrupted run left out of service, failed ones, the others."""

    def rank(host: str) -> int:
        document = documents.get(host) or {}
        if document.get("phase") in ACTIVE or document.get("touched") or document.get("drained"):
            return 0
        return 1 if document.get("phase") == "failed" else 2

    return sorted(hosts, key=rank)


def _restart(document: Document) -> Document:
    fresh = empty()
    # A host that was left half-changed or out of service stays known as such, whatever rollout comes next.
    fresh.update({name: document[name] for name in ("touched", "drained", "activation", "claim")})
    return fresh


def _allowed(before: str, after: str) -> bool:
    if after == "failed":
        return before not in ("done",)
    if after == "preparing":
        return True
    if after == "prepared":
        return before in ("new", "preparing", "prepared", "failed") or before in ACTIVE
    if after == "draining":
        return before not in ("preparing", "done")
    if after == "done" and before in ("preparing", "prepared", "new"):
        return True  # what is wanted was live already
    return after in _NEXT[before] or after == before


def _bare(claim_: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    return {name: value for name, value in claim_.items() if name != "over"} if claim_ else None


def _longer(claim_: Dict[str, Any], now: float) -> Dict[str, Any]:
    until = max(float(claim_["until"]), now + float(claim_.get("length", 0)))
    return {name: value for name, value in dict(claim_, until=until).items() if name != "over"}


def _with_fields(document: Document, fields: Optional[Dict[str, Any]]) -> Document:
    for name in fields or {}:
        if name not in ("release", "previous", "batch", "failure", "touched", "drained", "activation"):
            raise StateError(f"unknown field {name!r} of a rollout state")
    return dict(document, **(fields or {}))


def _is_claim(found: Any) -> bool:
    return isinstance(found, dict) and all(name in found for name in ("controller", "pid", "token", "until"))
