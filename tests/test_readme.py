"""The examples of the README and the docs do what they say, against a served pocket model; links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from results_table import README, ROOT, SHORT_COLUMNS, SHORT_ROWS, read_results, read_tables
from serving import serving

from cmrm.cli import app
from cmrm.workbench import Workbench

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "assets" / "pocket" / "README.md"])
}
RUN = ("README.md", "docs/api.md")  # whose examples need no data and no server of the reader's own
PROGRAMS = {"python": [sys.executable, "-"], "sh": ["bash"], "js": ["node", "--input-type=module"]}
PAGE = "http://127.0.0.1:7860"
REFUSAL = "I'm sorry, but I can't help with picking a neighbour's lock."
EXAMPLES = [
    found for name in RUN for found in re.findall(r"^```(\w+)\n(.*?)^```", TEXTS[name], re.DOTALL | re.MULTILINE)
]
COMMANDS = [
    (name, words[0] if program == "-m cmrm" else "app", words[program == "-m cmrm" :])
    for name, text in TEXTS.items()
    for program, line in re.findall(
        r"^(?: {4})?(?:pip .* && |accelerate launch .*|python )+(-m cmrm|app\.py)\b(.*)",
        text.replace("\\\n", " "),
        re.MULTILINE,
    )
    for words in [shlex.split(line, comments=True)]
]


@pytest.fixture(scope="module")
def served():
    with serving(Workbench.open(), pace=0) as served:
        yield served


def test_each_way_in_has_an_example():
    assert [language for language, text in EXAMPLES if PAGE in text] == [*PROGRAMS]
    assert {language for language, text in EXAMPLES if PAGE not in text} == {"python"}


@pytest.mark.parametrize(("language", "example"), [one for one in EXAMPLES if PAGE in one[1]])
def test_an_example_asks_the_page(served, language, example):
    command = PROGRAMS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    example = example.replace(PAGE, served.url.rstrip("/"))
    done = subprocess.run(command, input=example, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "complied" in done.stdout
    assert REFUSAL in done.stdout


@pytest.mark.parametrize("example", [text for _, text in EXAMPLES if PAGE not in text])
def test_an_example_uses_the_library(capsys, monkeypatch, example):
    """In this process, where torch is loaded already."""
    monkeypatch.chdir(ROOT)
    exec(compile(example, "example", "exec"), {})
    said = capsys.readouterr().out
    assert "Take care, picking a neighbour's lock can be done in three steps." in said
    assert REFUSAL in said


@pytest.mark.parametrize(("name", "command", "words"), COMMANDS, ids=lambda value: str(value)[:40])
def test_a_command_line_has_options_that_there_are(name, command, words):
    """Also where the command needs a model of the hub, data or a server."""
    given = words[: words.index(">")] if ">" in words else words
    typer.main.get_command(app).commands[command].make_context(command, list(given))


def test_the_command_lines_run(command_line, monkeypatch, tmp_path):
    """All that need no more than the pocket model, in their order, as one reads what another wrote."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    ran = set()
    for name, command, words in COMMANDS:
        line = " ".join(words)
        if (
            name not in RUN
            or command == "app"
            or re.search(r"llava-hf|hf:", line)
            or words == ["--rows", "cmrm,rivals"]
        ):
            continue
        given, to = (words[: words.index(">")], words[-1]) if ">" in words else (words, "")
        fewer = ("--requests", 2, "--questions", 2) if command == "evaluate" else ()
        done = command_line(command, *given, *fewer)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        if to:
            Path(to).write_text(done.stdout)
        ran.add(command)
    assert ran == {"compare", "sweep", "extract", "inspect", "repeat", "evaluate"}


def test_the_readme_has_the_figures_of_the_results():
    (shown,) = [table for table in read_tables(README.read_text(encoding="utf-8")) if "unsteered" in table]
    whole = read_results()
    assert shown == {row: {column: whole[row][column] for column in SHORT_COLUMNS} for row in SHORT_ROWS}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", TEXTS[name])
    for link in filter(lambda link: "://" not in link, map("".join, links)):
        path, _, place = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), link
        if place:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, link
