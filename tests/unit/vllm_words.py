"""Answers as vLLM 0.32 writes them, to a request as its server reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: How it writes JSON.
_COMPACT = (",", ":")


def dumped(value: object) -> str:
    """As pydantic writes it."""
    return json.dumps(value, separators=_COMPACT, ensure_ascii=False)


def _events(values: list[dict[str, Any]]) -> Iterator[bytes]:
    for value in values:
        yield f"data: {dumped(value)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }


@dataclass(frozen=True)
class Talk:
    """What an agent answers to every request: each choice's pieces, a token each."""

    prompt: int
    choices: tuple[tuple[str, ...], ...]
    cached: int | None = None

    @property
    def completion(self) -> int:
        return sum(len(pieces) for pieces in self.choices)

    def usage(self) -> dict[str, Any]:
        """Of all choices."""
        details = {} if self.cached is None else {"cached_tokens": self.cached}
        found = _usage(self.prompt, self.completion)
        return found | ({"prompt_tokens_details": details} if details else {})

    def chunks(self, include: bool, each: bool, *, chat: bool = True) -> list[dict[str, Any]]:
        """A stream's, with as much about usage as was asked for."""
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        each = include and each
        found = []
        if chat:
            for index in range(len(self.choices)):
                delta = {"role": "assistant", "content": ""}
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                usage = {"usage": _usage(self.prompt, 0)} if each else {}
                found.append(head | {"choices": [choice]} | usage)
        for place in range(max(map(len, self.choices), default=0)):
            for index, pieces in enumerate(self.choices):
                if place >= len(pieces):
                    continue
                part = {"delta": {"content": pieces[place]}} if chat else {"text": pieces[place]}
                ended = "stop" if place == len(pieces) - 1 else None
                choice = {"index": index} | part | {"logprobs": None, "finish_reason": ended}
                usage = {"usage": _usage(self.prompt, place + 1)} if each else {}
                found.append(head | {"choices": [choice]} | usage)
        if include:
            found.append(head | {"choices": [], "usage": self.usage()})
        return found

    def answer(self, path: str, content: bytes) -> tuple[str, Iterator[bytes]]:
        """To a chat's or a completion's request."""
        asked = json.loads(content)
        chat = path.endswith("chat/completions")
        if asked.get("stream"):
            options = asked.get("stream_options") or {}
            include, each = options.get("include_usage"), options.get("continuous_usage_stats")
            chunks = self.chunks(bool(include), bool(each), chat=chat)
            return "text/event-stream; charset=utf-8", _events(chunks)
        choices = [
            {"index": index, "message": {"role": "assistant", "content": "".join(pieces)}}
            for index, pieces in enumerate(self.choices)
        ]
        whole = {"id": "chatcmpl-1", "choices": choices, "usage": self.usage(), "logprobs": None}
        return "application/json", iter([dumped(whole).encode()])

    def messages(self) -> Iterator[bytes]:
        """A stream to Anthropic's clients."""
        cached = self.cached or 0
        usage = {"input_tokens": self.prompt - cached, "output_tokens": 0}
        yield _event("message_start", {"message": {"type": "message", "usage": usage}})
        for piece in self.choices[0]:
            delta = {"type": "text_delta", "text": piece}
            yield _event("content_block_delta", {"index": 0, "delta": delta})
        usage |= {"output_tokens": self.completion, "cache_read_input_tokens": cached}
        yield _event("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": usage})
        yield _event("message_stop", {})

    def responses(self) -> Iterator[bytes]:
        """A stream of the Responses API."""
        yield _event("response.created", {"response": {"output": [], "usage": None}})
        for piece in self.choices[0]:
            yield _event("response.output_text.delta", {"delta": piece})
        usage = {
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached or 0},
            "output_tokens": self.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.completion,
        }
        text = "".join(self.choices[0])
        response = {"output": [{"usage": {"input_tokens": 9}, "text": text}], "usage": usage}
        yield _event("response.completed", {"response": response})


def _event(name: str, value: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {dumped({'type': name} | value)}\n\n".encode()
