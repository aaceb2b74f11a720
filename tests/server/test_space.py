"""What Hugging Face Spaces read before anything runs: the header of README.md, the pins, the way files are sent."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# https://huggingface.co/docs/hub/spaces-config-reference
FIELDS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware"),
    *("suggested_storage", "app_file", "app_port", "app_build_command", "base_path", "fullWidth", "header"),
    *("short_description", "models", "datasets", "tags", "thumbnail", "pinned", "hf_oauth", "hf_oauth_scopes"),
    *("hf_oauth_expiration_minutes", "hf_oauth_authorized_org", "disable_embedding", "startup_duration_timeout"),
    *("custom_headers", "preload_from_hub", "license"),
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def header() -> dict:
    _, text, _ = (ROOT / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(text)


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split())


def test_the_header_has_documented_fields_and_values(header):
    assert set(header) <= FIELDS
    assert {header["colorFrom"], header["colorTo"]} <= COLOURS
    assert header["sdk"] == "gradio"
    assert (ROOT / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", model) for model in header["models"])
    assert header["license"] == "mit"


def test_the_header_and_the_pins_ask_for_the_same(header, pins):
    assert header["sdk_version"] == pins["gradio"]
    # In quotes, or YAML would read 3.10 as 3.1.
    assert isinstance(header["python_version"], str)
    settings = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={header["python_version"]}"' in settings


def test_spaces_md_sends_binary_files_in_a_way_that_the_hub_accepts():
    """A plain `git push` of a repository with binary files is rejected there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if any(name.endswith((".safetensors", ".png")) for name in listed):
        text = (ROOT / "Spaces.md").read_text()
        assert "hf upload USER/NAME . --repo-type space" in text
        assert "git push" not in text


def test_each_variable_that_spaces_md_names_is_one_that_something_reads():
    named = set(re.findall(r"`((?:CMRM|HF)_[A-Z_]+)", (ROOT / "Spaces.md").read_text()))
    sources = "".join(path.read_text() for path in [ROOT / "app.py", *ROOT.glob("cmrm/**/*.py")])
    assert {name for name in named if name.startswith("CMRM_")} <= set(re.findall(r"CMRM_[A-Z_]+", sources))
    assert {name for name in named if name.startswith("HF_")} <= {"HF_TOKEN", "HF_HOME"}
