"""`vllm-hosts agents` where files are not as a deploy left them."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import LocalHost
from tests.unit.test_agents_cli import AGENTS, composed


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return LocalHost.make(tmp_path)


COMPOSE = "services:\n  one:\n    command: [--max-model-len, '8192']\n"


class TestAfterAnEdit:
    """compose.yaml as a deploy left it, with the record that it wrote, and changed by hand."""

    @pytest.fixture
    def deployed(self, host: LocalHost) -> LocalHost:
        state = host.folder / "state"
        # The host's record lies where a test cannot write; the project has a command of its own.
        self.program = host.project.patched(
            "from vllm_hosts.agents import edited",
            "from vllm_hosts.facts import tree",
            f"tree.DEPLOYED = {str(state / 'deployed')!r}",
            f"edited.COPIES = {str(state / 'files')!r}",
        )
        compose = host.file("opt/compose.yaml", COMPOSE)
        copy = state / "files" / str(compose).lstrip("/")
        copy.parent.mkdir(parents=True)
        copy.write_text(COMPOSE)
        digest = hashlib.sha256(COMPOSE.encode()).hexdigest()
        (state / "deployed").write_text(f"{digest}  {compose}\n")
        return host

    def run(self, host: LocalHost, *words: str) -> subprocess.CompletedProcess[str]:
        done = host.project.run(self.program, *AGENTS[1:], *words)
        assert "Traceback" not in done.stdout, done.stdout
        return done

    def test_what_was_deployed_restarts_without_a_word(self, deployed: LocalHost) -> None:
        done = self.run(deployed, "restart", "one")
        assert done.returncode == 0
        said = [line for line in done.stdout.splitlines() if line.startswith("@local: ")]
        assert said == ["@local: one restarted"]

    @pytest.mark.parametrize("word", ["restart", "start"])
    def test_an_edit_is_shown_and_refused(self, deployed: LocalHost, word: str) -> None:
        deployed.agent("one", "exited", None)
        key = "sk-internal-of-one-0123"
        deployed.file("opt/.env", f"VLLM_API_KEY_ONE={key}\n")
        edit = COMPOSE.replace("8192", "4096") + f"# {key}\n# HF_TOKEN=abcdefgh\n"
        deployed.file("opt/compose.yaml", edit)
        done = self.run(deployed, word, "one")
        assert done.returncode == 1
        assert "opt/compose.yaml is not what was deployed\n" in done.stdout
        assert "      -    command: [--max-model-len, '8192']\n" in done.stdout
        assert "      +    command: [--max-model-len, '4096']\n" in done.stdout
        assert "      +# *MASKED*\n" in done.stdout
        assert "      +# HF_TOKEN=*MASKED*\n" in done.stdout
        assert f"Nothing was {word}ed.\n" in done.stdout
        assert "  pyinfra --limit @local inventory/prod.py deploy.py\n" in done.stdout
        assert "--as-is" in done.stdout
        assert key not in done.stdout
        assert composed(deployed) == []

    def test_as_is_goes_on_and_still_shows_it(self, deployed: LocalHost) -> None:
        deployed.file("opt/compose.yaml", COMPOSE.replace("8192", "4096"))
        done = self.run(deployed, "restart", "one", "--as-is")
        assert done.returncode == 0, done.stdout
        assert "4096" in done.stdout
        assert composed(deployed) == ["up --detach --no-deps --force-recreate one"]

    def test_a_file_that_compose_reads_beside_it(self, deployed: LocalHost) -> None:
        deployed.file("opt/compose.override.yaml", "services: {one: {privileged: true}}\n")
        done = self.run(deployed, "restart")
        assert done.returncode == 1
        assert "compose.override.yaml exists, which no deploy wrote" in done.stdout
        assert composed(deployed) == []
        assert self.run(deployed, "restart", "--as-is").returncode == 0

    def test_a_run_that_was_cut_off_is_no_edit(self, deployed: LocalHost) -> None:
        """Two digests: of what was there, and of what was about to be."""
        record = deployed.folder / "state/deployed"
        record.write_text(f"{'a' * 64}  {deployed.folder}/opt/compose.yaml\n" + record.read_text())
        assert self.run(deployed, "restart", "one").returncode == 0

    def test_one_edited_host_keeps_the_others_as_they_are(self, deployed: LocalHost) -> None:
        deployed.file("opt/compose.yaml", COMPOSE + "# mine\n")
        deployed.two_hosts()
        done = self.run(deployed, "start", "--host", "@local", "--host", "down")
        assert done.returncode == 1
        assert "Nothing was started." in done.stdout
        assert composed(deployed) == []

    def test_without_a_copy_it_is_refused_all_the_same(self, deployed: LocalHost) -> None:
        [copy] = (deployed.folder / "state/files").rglob("compose.yaml")
        copy.write_text("another version\n")
        deployed.file("opt/compose.yaml", COMPOSE + "# mine\n")
        done = self.run(deployed, "restart")
        assert done.returncode == 1
        assert "what was deployed cannot be shown" in done.stdout
        assert "another version" not in done.stdout

    def test_a_file_that_is_gone(self, deployed: LocalHost) -> None:
        (deployed.folder / "opt/compose.yaml").unlink()
        done = self.run(deployed, "restart")
        assert (done.returncode, "no longer exists" in done.stdout) == (1, True)

    def test_another_env_is_said_and_taken_up(self, deployed: LocalHost) -> None:
        """That is what a restart is for."""
        env = deployed.file("opt/.env", "VLLM_API_KEY_ONE=sk-another-0123456789\n")
        with (deployed.folder / "state/deployed").open("a") as record:
            record.write(f"{'a' * 64}  {env}\n")
        done = self.run(deployed, "restart", "one")
        assert done.returncode == 0
        assert "opt/.env is not what was deployed; agents get what it holds" in done.stdout
        assert "sk-another" not in done.stdout

    def test_a_host_without_a_record_says_so_and_goes_on(self, deployed: LocalHost) -> None:
        (deployed.folder / "state/deployed").unlink()
        done = self.run(deployed, "restart", "one")
        assert done.returncode == 0
        assert "has no record of what was deployed" in done.stdout
