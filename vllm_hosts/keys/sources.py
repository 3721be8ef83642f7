"""Secrets from elsewhere: from an environment variable, or from the output of a command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache

from pydantic import SecretStr

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.store_content import SAFE_SECRET
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.sections import Secrets

#: Seconds: long enough to touch a hardware key, short enough for an unattended run.
_TIMEOUT = 120
#: People choose these; sudo reads one line of up to 255 bytes.
_PASSWORD = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_taken: dict[str, SecretStr] = {}


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


def sudo_password(given: Secrets) -> tuple[SecretStr, str] | None:
    """The password that sudo asks for, and where it comes from; None: there is no source for it.

    The variable is removed from this process's environment: commands would inherit it if the host
    is this machine.

    :raises SettingsError: its source gives nothing usable.
    """
    if (variable := given.sudo_password_env) is not None:
        setting = "secrets.sudo_password_env"
        if variable not in _taken:
            if problem := _judged_variable(setting, variable, _PASSWORD):
                raise SettingsError([problem])
            _taken[variable] = SecretStr(os.environ.pop(variable))
        return _taken[variable], f"from {setting}, {variable}"
    if given.sudo_password_command is not None:
        setting = "secrets.sudo_password_command"
        password = _from_command(setting, given.sudo_password_command, _PASSWORD)
        return password, f"from {setting}"
    return None


def taken() -> dict[str, str]:
    """Variables that were removed from the environment, for a process that needs them again."""
    return {variable: value.get_secret_value() for variable, value in _taken.items()}


def problems(settings: HostSettings) -> Iterator[str]:
    """What is wrong with secrets from the environment. Runs no command."""
    given = settings.secrets
    for setting, variable in (
        ("secrets.internal_key_env", given.internal_key_env),
        ("secrets.hf_token_env", given.hf_token_env),
    ):
        if variable is not None and (problem := _judged_variable(setting, variable)):
            yield problem
    variable = given.sudo_password_env
    if variable is not None and variable not in _taken:
        problem = _judged_variable("secrets.sudo_password_env", variable, _PASSWORD)
        if problem:
            yield problem


def _one(setting: str, variable: str | None, command: str | None) -> SecretStr | None:
    if variable is not None:
        if problem := _judged_variable(f"{setting}_env", variable):
            raise SettingsError([problem])
        return SecretStr(os.environ[variable])
    return _from_command(f"{setting}_command", command) if command is not None else None


def _judged_variable(
    setting: str, variable: str, safe: re.Pattern[str] = SAFE_SECRET
) -> str | None:
    value = os.environ.get(variable)
    if not value:
        how = "empty" if value == "" else "not set"
        return (
            f"{setting} names the environment variable {variable}, which is {how};"
            " export it, or remove the setting"
        )
    if not safe.fullmatch(value):
        has = "line breaks" if safe is _PASSWORD else "spaces, line breaks"
        what = "password" if safe is _PASSWORD else "key"
        return (
            f"{setting}: the value of {variable} has {has} or other characters"
            f" that a {what} cannot have; export it without them"
        )
    return None


@cache
def _from_command(setting: str, command: str, safe: re.Pattern[str] = SAFE_SECRET) -> SecretStr:
    """The first line that a command prints. It is run once, and its output is never shown."""
    program = _program(command)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdout=subprocess.PIPE,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SettingsError([f"{setting}: {program} did not finish within {_TIMEOUT} s"]) from None
    if done.returncode != 0:
        raise SettingsError(
            [f"{setting}: {program} ended with {done.returncode}; see its output above"]
        )
    try:
        value = done.stdout.partition(b"\n")[0].decode()
    except UnicodeDecodeError:
        value = ""
    value = value.rstrip("\r") if safe is _PASSWORD else value.strip()
    if not safe.fullmatch(value):
        what = "password" if safe is _PASSWORD else "key"
        raise SettingsError(
            [f"{setting}: {program} printed no {what} in its first line (its output is not shown)"]
        )
    return SecretStr(value)


def _program(command: str) -> str:
    """The first word of a shell command, for people."""
    try:
        words = shlex.split(command)
    except ValueError:
        # The shell says what is wrong with it.
        words = command.split()
    return words[0] if words else "the command"
