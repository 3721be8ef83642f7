"""What sshd makes of our file, among those of others."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.unit.real_nginx import LUA_LIBRARIES, program
from tests.unit.samples import settings
from tests.unit.ssh_server import write_key
from vllm_hosts.host.files import Absent, File
from vllm_hosts.roles.ssh_hardening.plan import ssh_entries

#: As cloud images have it.
OTHERS = "PasswordAuthentication yes\nKbdInteractiveAuthentication yes\nPermitRootLogin yes\n"
WANTED = {
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "permitrootlogin": "prohibit-password",
}


def hardened() -> File:
    [entry] = ssh_entries(settings(ssh_hardening={"enabled": True}))
    assert isinstance(entry, File)
    return entry


def test_it_is_a_file_of_root_s_that_sshd_reads_before_others() -> None:
    path = Path(hardened().path)
    assert (hardened().mode, hardened().owner) == (0o644, "root")
    assert path.parent == Path("/etc/ssh/sshd_config.d")
    # The shell's order, in which sshd reads them; the first value stays.
    assert path.match("*.conf")
    assert path.name < "01-permitrootlogin.conf" < "50-cloud-init.conf"


def test_it_says_that_passwords_are_refused() -> None:
    lines = hardened().content.decode().lower().splitlines()
    assert dict(line.split() for line in lines if not line.startswith("#")) == WANTED


def test_sshd_refuses_passwords_whatever_other_files_say(tmp_path: Path) -> None:
    folder = tmp_path / "sshd_config.d"
    folder.mkdir()
    (folder / "50-cloud-init.conf").write_text(OTHERS)
    (folder / Path(hardened().path).name).write_bytes(hardened().content)
    main = tmp_path / "sshd_config"
    key = write_key(tmp_path / "key")
    main.write_text(f"HostKey {key}\nInclude {folder}/*.conf\n{OTHERS}")
    # Where nobody has installed it, its user is missing, too.
    users = tmp_path / "passwd"
    users.write_text(f"{Path('/etc/passwd').read_text()}sshd:x:64999:65534::/run/sshd:/bin/false\n")
    asks = f"mount --bind {users} /etc/passwd; mkdir -p /run/sshd; {program('sshd')} -T -f {main}"
    said = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", asks],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"LD_LIBRARY_PATH": LUA_LIBRARIES},
    )
    # sshd prints the older of two names.
    effective = said.stdout.replace("without-password", "prohibit-password").splitlines()
    assert {" ".join(words) for words in WANTED.items()} <= set(effective)


def test_where_it_is_off_the_file_is_taken_away() -> None:
    assert ssh_entries(settings()) == [Absent(hardened().path)]
