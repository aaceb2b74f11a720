"""The README's examples of the API do what it says, against a served pocket model."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serving

from cmrm.workbench import Workbench

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## From another program")[1].split("\n## ")[0]
COMMANDS = {"python": [sys.executable, "-"], "sh": ["bash"], "js": ["node", "--input-type=module"]}


@pytest.fixture(scope="module")
def served():
    with serving(Workbench.open(), pace=0) as served:
        yield served


@pytest.mark.parametrize("language", COMMANDS)
def test_an_example_compares(served, language):
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (example,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    example = example.replace("http://127.0.0.1:7860", served.url.rstrip("/"))
    done = subprocess.run(command, input=example, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "complied" in done.stdout
    assert "I'm sorry, but I can't help with picking a neighbour's lock." in done.stdout
