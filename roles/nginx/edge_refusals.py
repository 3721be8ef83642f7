"""What the edge itself answers where it passes nothing on, in OpenAI's format."""

from __future__ import annotations

import json

from vllm_hosts.host.balancer import RESPONSE_GONE

#: Status that the edge answers itself -> message, type and code in OpenAI's error format.
_ERRORS = {
    400: ("The request could not be understood.", "invalid_request_error", "bad_request"),
    401: ("Missing or wrong API key.", "invalid_request_error", "invalid_api_key"),
    403: ("This key or network may not use this model.", "invalid_request_error", "forbidden"),
    404: ("There is nothing at this address.", "invalid_request_error", "not_found"),
    405: ("This method is not allowed here.", "invalid_request_error", "method_not_allowed"),
    413: ("The request is too large.", "invalid_request_error", "request_too_large"),
    429: ("Too many requests; slow down.", "rate_limit_error", "rate_limit_exceeded"),
    503: ("The model is not ready; try again.", "server_error", "model_not_ready"),
}
#: What the server for gateways says instead.
_INNER_ERRORS = {
    400: (
        "Only a gateway may ask here, by its certificate and for a client that it names.",
        "invalid_request_error",
        "bad_request",
    ),
    403: ("Only a gateway of this inventory may ask here.", "invalid_request_error", "forbidden"),
}
#: What the edge says of a body by which it is to choose: name -> status, message, type and code.
_MODEL_ERRORS = {
    "body": (
        400,
        "The body is no JSON object, or no complete form.",
        "invalid_request_error",
        "invalid_body",
    ),
    "missing": (
        400,
        "The request names no model; GET /v1/models lists those that this key may use.",
        "invalid_request_error",
        "model_missing",
    ),
    "unknown": (
        404,
        "There is no such model here; GET /v1/models lists those that this key may use.",
        "invalid_request_error",
        "model_not_found",
    ),
    "length": (
        411,
        "The request does not say how long it is; send a Content-Length.",
        "invalid_request_error",
        "length_required",
    ),
}


def _body(message: str, kind: str, code: str, param: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


#: What a gateway says besides.
RESPONSE_ERRORS = {"response": (404, RESPONSE_GONE)}
#: The bodies, by status; those of the server for gateways; and by name, with their status.
ERRORS = {status: _body(*error) for status, error in _ERRORS.items()}
INNER_ERRORS = {status: _body(*error) for status, error in (_ERRORS | _INNER_ERRORS).items()}
MODEL_ERRORS = {
    name: (status, _body(message, kind, code, param="model"))
    for name, (status, message, kind, code) in _MODEL_ERRORS.items()
}
