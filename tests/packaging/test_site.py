"""A site that `vllm-hosts init` made: its commands, in it and from anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Installed
from tests.unit.model_files import safetensors
from vllm_hosts.verify.promises import promises

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
#: Commands that need no host, with words that show that they did their work.
COMMANDS = {
    "check": (["check", "INVENTORY"], "1 host and 1 agent: all settings are valid"),
    "plan": (["plan", "INVENTORY", "--no-connect", "--offline", "--gpu-memory", "24"], "qwen3-8b"),
    "endpoints": (["endpoints", "INVENTORY"], "https://127.0.0.1/qwen3-8b/v1"),
    "hosts": (["hosts", "list", "INVENTORY"], "gpu1"),
    "keys": (["keys", "list", "INVENTORY"], "default"),
    "tls": (["tls", "INVENTORY", "status"], "gpu1"),
}


@pytest.fixture(scope="module")
def with_keys(installed: Installed, site: Path) -> Path:
    """As after a first deploy, for commands that read the store."""
    add = ("keys", "add", "inventory/prod.py", "alice")
    done = installed.run(site, "vllm-hosts", *add)
    assert done.returncode == 0, done.stdout
    return site


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work_from_any_folder(
    command: str, where: str, installed: Installed, with_keys: Path, elsewhere: Path, model: Path
) -> None:
    words, shown = COMMANDS[command]
    inside = where == "inside"
    inventory = "inventory/prod.py" if inside else str(with_keys / "inventory/prod.py")
    folder = with_keys if inside else elsewhere
    words = [inventory if word == "INVENTORY" else word for word in words]
    words += ["--model-dir", f"qwen3-8b={model}"] if command == "plan" else []
    done = installed.run(folder, "vllm-hosts", *words)
    assert shown in done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert sorted(path.name for path in elsewhere.iterdir()) == ["group_data"]


def test_drift_takes_the_site_s_own_deploy(
    installed: Installed, site: Path, elsewhere: Path
) -> None:
    done = installed.run(elsewhere, "vllm-hosts", "drift", str(site / "inventory/prod.py"))
    assert (done.returncode, "127.0.0.1 refuses connections to port 1" in done.stdout) == (1, True)


def test_verify_has_its_suite(installed: Installed, site: Path, elsewhere: Path) -> None:
    """A test for each promise, whatever pytest or Python would take from where one is."""
    (elsewhere / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (elsewhere / "yaml.py").write_text("raise SystemExit('this is another yaml')\n")
    inventory = str(site / "inventory/prod.py")
    words = ("vllm-hosts", "verify", inventory, "--collect-only", "-q")
    done = installed.run(elsewhere, *words)
    for name in ("pytest.ini", "yaml.py"):
        (elsewhere / name).unlink()
    # Nothing was checked, and so nothing is known to be kept.
    assert done.returncode == 1, done.stdout[-3000:]
    assert done.stdout.count("::test_") >= len(promises()), done.stdout


def operations(text: str) -> list[str]:
    """The first column of pyinfra's table."""
    rows = [line.strip() for line in text.splitlines() if " | " in line]
    return [row.split("  ")[0] for row in rows]


def test_a_site_deploys_what_the_checkout_deploys(
    installed: Installed, site: Path, tmp_path: Path
) -> None:
    """The same operations in the same order, seen by a dry run on this machine."""
    local = 'gpu_hosts = [("@local", {"ssh_hostname": "192.0.2.7"})]\n'
    (site / "inventory" / "local.py").write_text(local)
    of_site = installed.run(site, "pyinfra", "--dry", "inventory/local.py", "deploy.py").stdout
    (site / "inventory" / "local.py").unlink()
    assert "Traceback" not in of_site, of_site
    for name in ("deploy.py", "config.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "group_data").symlink_to(site / "group_data")
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "local.py").write_text(local)
    pyinfra = Path(sys.executable).with_name("pyinfra")
    of_checkout = subprocess.run(
        [pyinfra, "--dry", "inventory/local.py", "deploy.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    ).stdout
    assert len(operations(of_site)) > 30, of_site
    assert operations(of_site) == operations(of_checkout)


def test_bad_settings_are_refused_before_anything_connects(
    installed: Installed, site: Path
) -> None:
    file = site / "group_data" / "all.py"
    good = file.read_text()
    file.write_text(good.replace('#: "https_port": 443', '"https_port": "443"'))
    assert file.read_text() != good
    done = installed.run(site, "pyinfra", "--dry", "inventory/prod.py", "deploy.py")
    file.write_text(good)
    assert done.returncode == 2
    assert "group_data/all.py: edge.https_port must be a whole number" in done.stdout
    assert "Connecting" not in done.stdout


def test_an_upgrade_of_what_was_just_made_has_nothing_to_say(
    installed: Installed, site: Path, elsewhere: Path
) -> None:
    done = installed.run(elsewhere, "vllm-hosts", "init", "--upgrade", str(site))
    assert (done.returncode, "all.py is as vllm-hosts" in done.stdout) == (0, True), done.stdout


def test_a_site_is_a_repository_without_its_keys(installed: Installed, with_keys: Path) -> None:
    site = with_keys
    assert "`edge`" in installed.run(site, "vllm-hosts", "settings").stdout
    assert (site / "inventory" / ".vllm-hosts").is_dir()
    subprocess.run(["git", "init", "-q"], cwd=site, check=True)
    shown = subprocess.check_output(["git", "status", "--porcelain", "-uall"], cwd=site, text=True)
    listed = sorted(line[3:] for line in shown.splitlines())
    assert "inventory/prod.py" in listed
    assert [name for name in listed if ".vllm-hosts" in name] == []
