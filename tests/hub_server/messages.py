"""Requests and replies, as far as a hub cares."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Request:
    """One request; ``path`` is still quoted, so that ``refs%2Fpr%2F1`` is one segment."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self, name: str) -> list[str]:
        """A list in the body, which clients send as JSON."""
        value = self.json()[name]
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Reply:
    """One answer; ``cut_after`` makes the server drop the connection after so many bytes of the body."""

    body: bytes = b""
    status: int = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.reply = answer_json({"error": message}, status=status, headers=headers)


def answer_json(value: Any, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer in JSON."""
    return Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


def ranged(request: Request, content: bytes, headers: Mapping[str, str]) -> Reply:
    """All of the content, or the range of bytes that the request asks for."""
    headers = {"Content-Type": "application/octet-stream", **headers}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Reply(content, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first > last:
        status, part, shown = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", f"bytes */{len(content)}"
    else:
        status, part, shown = (
            HTTPStatus.PARTIAL_CONTENT,
            content[first : last + 1],
            f"bytes {first}-{last}/{len(content)}",
        )
    return Reply(part, status, headers | {"Content-Range": shown})
