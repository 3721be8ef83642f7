"""Converts a cache of models that agents were able to write."""

from __future__ import annotations

import shlex

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Found
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.operations.base import Commands, host_operation
from vllm_hosts.operations.differences import differs

#: Runs as root with no capabilities except those over files, and sees only the models.
_OPTIONS = (
    *("--rm", "--network", "none", "--pull", "never", "--read-only", "--pids-limit", "64"),
    *("--user", "0:0", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"),
    *("--cap-add", "CHOWN", "--cap-add", "FOWNER", "--cap-add", "DAC_READ_SEARCH"),
    *("--env", "NVIDIA_VISIBLE_DEVICES=void", "--entrypoint", "sh"),
)


@host_operation
def cache_adopted(cache_directory: str, owner: str, image: str) -> Commands:
    """Let only root rename anything in the cache, and only ``owner`` write its models.

    Earlier versions let agents write all of it, so its content is not trusted: links in place of
    folders are moved aside, and every model is compared with the hub again.

    :param owner: ``UID:GID`` that fetches models.
    """
    models = f"{cache_directory}/huggingface"
    found = look(TreeState, paths=[cache_directory, models]).paths
    if found[cache_directory].kind == "-":
        return
    if _roots(found[cache_directory]) and _owned(found[models], owner):
        return
    differs(cache_directory, "could be written by agents")
    yield StringCommand(adopt_script(cache_directory, owner, image))


def _roots(found: Found) -> bool:
    return found.kind == "d" and "root" in found.owner and not found.mode & 0o022


def _owned(found: Found, owner: str) -> bool:
    return found.kind == "-" or (found.kind == "d" and owner.partition(":")[0] in found.owner)


def adopt_script(cache_directory: str, owner: str, image: str) -> str:
    """The shell script for that. Once the folder is root's, nobody can race it."""
    inside = f"""
        chown -hR {owner} /models
        find /models -type d ! -perm -050 -exec chmod g+rx {{}} +
        find /models -type f ! -perm -040 -exec chmod g+r {{}} +
        find /models ! -type l -perm /022 -exec chmod go-w {{}} +
    """
    mount = f"type=bind,source={cache_directory}/huggingface,target=/models"
    return f"""
        set -eu
        cd -P {cache_directory}
        [ ! -L {cache_directory} ] || {{
            echo '{cache_directory} is a link; set vllm.cache_directory to where it leads'; exit 1
        }}
        chown root:root .; chmod 0755 .
        aside() {{
            echo "{cache_directory}/$1 was put there by an agent: now $1.untrusted-$now" >&2
            mv -T "$1" "$1.untrusted-$now"
        }}
        now=$(date +%s)
        for name in agents huggingface; do
            [ -e $name ] || [ -L $name ] || continue
            # Only root makes the folder that holds the agents' own.
            if [ -L $name ] || [ ! -d $name ] ||
                {{ [ $name = agents ] && [ "$(stat -c %u agents)" != 0 ]; }}; then aside $name; fi
        done
        [ ! -d {MODEL_NOTES} ] || grep -ls '^commit ' {MODEL_NOTES}/* | xargs -r rm -f
        [ ! -d huggingface ] || docker run {shlex.join(_OPTIONS)} --mount {mount} \
            {shlex.quote(image)} -c {shlex.quote(inside)}
    """
