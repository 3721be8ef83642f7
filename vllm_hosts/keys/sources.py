"""Secrets that come from elsewhere: an environment variable, or the output of a command."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache

from pydantic import SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.model import SAFE_SECRET
from vllm_hosts.settings import HostSettings

#: Long enough to touch a hardware key, short enough for a run that nobody watches.
_TIMEOUT = 120


def internal_key(settings: HostSettings) -> SecretStr | None:
    """The provided key between edge and agents; None: the store's own.

    :raises SettingsError: its source gives nothing usable.
    """
    given = settings.secrets
    return _one("secrets.internal_key", given.internal_key_env, given.internal_key_command)


def hf_token(settings: HostSettings) -> SecretStr | None:
    """The Hugging Face token; None: there is none.

    :raises SettingsError: its source gives nothing usable.
    """
    given = settings.secrets
    return _one("secrets.hf_token", given.hf_token_env, given.hf_token_command)


def problems(settings: HostSettings) -> Iterator[str]:
    """What is wrong with secrets of the environment. Runs no command."""
    given = settings.secrets
    for setting, variable in (
        ("secrets.internal_key_env", given.internal_key_env),
        ("secrets.hf_token_env", given.hf_token_env),
    ):
        if variable is not None and (problem := _judged_variable(setting, variable)):
            yield problem


def _one(setting: str, variable: str | None, command: str | None) -> SecretStr | None:
    if variable is not None:
        if problem := _judged_variable(f"{setting}_env", variable):
            raise SettingsError([problem])
        return SecretStr(os.environ[variable])
    return _from_command(f"{setting}_command", command) if command is not None else None


def _judged_variable(setting: str, variable: str) -> str | None:
    value = os.environ.get(variable)
    if not value:
        how = "empty" if value == "" else "not set"
        return (
            f"{setting} names the environment variable {variable}, which is {how};"
            " export it, or remove the setting"
        )
    if not SAFE_SECRET.fullmatch(value):
        return (
            f"{setting}: the value of {variable} has spaces, line breaks or other characters"
            " that a key cannot have; export it without them"
        )
    return None


@cache
def _from_command(setting: str, command: str) -> SecretStr:
    """The first line that a command prints. Run once; what it prints is shown to nobody."""
    program = shlex.split(command)[0]
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdout=subprocess.PIPE,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SettingsError([f"{setting}: {program} did not end within {_TIMEOUT} s"]) from None
    if done.returncode != 0:
        raise SettingsError(
            [f"{setting}: {program} ended with {done.returncode}; its own words are above"]
        )
    value = done.stdout.partition("\n")[0].strip()
    if not SAFE_SECRET.fullmatch(value):
        raise SettingsError(
            [f"{setting}: {program} printed no key in its first line (its output is not shown)"]
        )
    return SecretStr(value)
