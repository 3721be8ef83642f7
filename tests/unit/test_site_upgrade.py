"""The settings that `vllm-hosts init` wrote, and what a newer version does to them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from tests.unit.test_site import typed
from vllm_hosts.errors import SettingsError
from vllm_hosts.project.new_site import site_above
from vllm_hosts.settings import HostSettings, generated
from vllm_hosts.settings.docs import sections


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


class TestGenerated:
    def test_nothing_is_set_and_everything_is_there(self) -> None:
        text = generated.fresh()
        found: dict[str, object] = {}
        exec(text, found)
        for name, section in sections():
            assert found[name] == {}
            for key in section.model_fields:
                assert f'    #: "{key}": ' in text

    def test_without_the_marks_it_says_the_defaults(self) -> None:
        text = re.sub(r'(?m)^    #: (?=")', "    ", generated.fresh())
        found: dict[str, object] = {}
        exec(text, found)
        agents = [{"name": "one", "model": "a/b", "port": 8001}]
        bare = {"name": "h", "address": "h", "agents": agents}
        given = {name: found[name] for name, _ in sections()}
        assert HostSettings.model_validate(bare | given) == HostSettings.model_validate(bare)
        # Settings of the owner's stay, whatever they are.
        assert generated.upgraded(text) == text

    def test_once_more_changes_nothing(self) -> None:
        text = generated.fresh()
        assert generated.upgraded(text) == text


#: What an owner made of `docker`, in ways that people write: what has to be left of it.
OWNED = '''\
#: An old heading
docker = {
    #: An old description
    #: "source": "older default",
    # because of the mirror
    "archive_url": (
        "https://mirror.example.com"
        # inside of a value
    ),

    #: Of a setting that is gone
    #: "gone": 1,
    "log_max_size": "1m", "log_max_file": 9,
    **{"live_restore": False},
    "container_folders": """

    #: a text
    """.split()  # the last one
    # and a last word
}
'''


class TestUpgrade:
    def values(self, text: str) -> dict[str, object]:
        found: dict[str, object] = {}
        exec(text, found)
        return {name: value for name, value in found.items() if name != "__builtins__"}

    def test_what_the_owner_wrote_stays(self) -> None:
        text = f'import os\n\nx_mine = """\n\n\n#: text"""\n\n{OWNED}\nedge = dict(burst=1)\n'
        new = generated.upgraded(text)
        before, after = self.values(text), self.values(new)
        assert {name: after[name] for name in before} == before
        for line in ("# because of the mirror", "# inside of a value", "# the last one"):
            assert line in new
        assert "    # and a last word\n}" in new
        for gone in ("old heading", "older default", "old description", "gone"):
            assert gone not in new
        assert '    #: "source": "docker-ce",\n' in new
        of_docker = new.partition("docker = {")[2].partition("}")[0]
        assert '#: "archive_url"' not in of_docker
        assert new.count("edge = ") == 1
        assert set(after) - set(before) == {name for name, _ in sections()} - {"docker", "edge"}
        assert generated.upgraded(new) == new

    def test_a_newer_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A setting that is new, one that is gone, one with another default; all are shown."""

        class Docker(BaseModel):
            """Docker, as it will be."""

            source: str = Field("podman", description="Another default")
            brand_new: int = Field(7, description="A new one")

        def newer() -> list[tuple[str, type[BaseModel]]]:
            return [("docker", Docker)]

        text = generated.fresh().replace('    #: "log_max_file": 3', '    "log_max_file": 5')
        old = [name for name, _ in sections() if name != "docker"]
        monkeypatch.setattr(generated, "sections", newer)
        new = generated.upgraded(text)
        assert self.values(new) == {"docker": {"log_max_file": 5}}
        assert '    #: "source": "podman",\n    #: A new one\n    #: "brand_new": 7,\n' in new
        assert not any(f"{name} = " in new for name in old)

    def test_a_section_that_is_gone_stays_where_it_was_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = generated.fresh().replace('    #: "burst": 40', '    "burst": 41')
        fewer = [(name, section) for name, section in sections() if name not in ("edge", "tls")]
        monkeypatch.setattr(generated, "sections", lambda: fewer)
        new = generated.upgraded(text)
        values = self.values(new)
        assert (values["edge"], "tls" in values) == ({"burst": 41}, False)
        assert "\n\n\n" not in new

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("docker = {", "group_data/all.py, line 1: "),
            ('docker = {\n    "source": "distro",\n}\n', "move it aside"),
        ],
    )
    def test_what_cannot_be_upgraded_is_one_sentence(self, text: str, sentence: str) -> None:
        with pytest.raises(SettingsError) as refused:
            generated.upgraded(text)
        [problem] = refused.value.problems
        assert sentence in problem

    def test_it_writes_nothing_unless_told(self, home: Path) -> None:
        typed("init", "one")
        file = Path("one/group_data/all.py")
        old = (
            file.read_text()
            .replace('    #: "burst": 40,\n', "")
            .replace('    #: "https_port": 443,', '    "https_port": 8443,')
        )
        file.write_text(old)
        os.chdir("one/inventory")
        done = typed("init", "--upgrade")
        assert done.exit_code == 3
        assert '+    #: "burst": 40,' in done.stdout.splitlines()
        assert [line for line in done.stdout.splitlines() if line.startswith("-")][1:] == []
        assert "Nothing was written; --write writes it" in done.output
        os.chdir("../..")
        assert file.read_text() == old
        assert typed("init", "--upgrade", "one", "--write").exit_code == 0
        assert '    "https_port": 8443,' in file.read_text()
        assert '    #: "burst": 40,' in file.read_text()
        assert "is as vllm-hosts" in typed("init", "--upgrade", "one").stdout
        file.unlink()
        typed("init", "--upgrade", "one", "--write")
        assert file.read_text() == generated.fresh()

    def test_a_write_that_fails_leaves_what_was_there(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert typed("init", "site").exit_code == 0
        file = Path("site/group_data/all.py")
        file.write_text(file.read_text().replace("#:", "#: old", 1))
        file.chmod(0o640)
        before = file.read_text()

        def full(self: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            assert typed("init", "site", "--upgrade", "--write").exit_code == 1
        assert file.read_text() == before
        assert typed("init", "site", "--upgrade", "--write").exit_code == 0
        assert file.read_text() != before
        assert file.stat().st_mode & 0o777 == 0o640
        assert [path.name for path in file.parent.glob("all*")] == ["all.py"]

    def test_where_there_is_no_site(self, home: Path) -> None:
        done = typed("init", "--upgrade")
        assert done.exit_code == 1
        assert "is in no site" in done.output
        with pytest.raises(SettingsError):
            site_above(home)
