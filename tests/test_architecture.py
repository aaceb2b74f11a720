"""The order of the rooms: who may import whom, and who knows torch."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cmrm"
# Nobody imports from a later room; docs/architecture.md says what each is for.
ORDER = """
    errors versions files lru progress settings images signatures terminal templates model data judging steering
    answering engines explaining methods charts workbench saved_run pocket evaluation ui server cli
"""
ROOMS = ORDER.split()
ENTRANCES = ("__init__", "__main__")


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a file imports, wherever and for whatever reason, as names from the package on."""
    package = list(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            whole = [*base, *(node.module.split(".") if node.module else [])]
            for name in node.names:
                inner = PACKAGE.joinpath(*whole, name.name)
                is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
                yield (*whole, name.name) if is_module else tuple(whole)


MODULES = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_has_its_place_in_the_order():
    rooms = {name[0] for name in MODULES if name[0] not in ENTRANCES}
    assert rooms == set(ROOMS)


def test_nobody_imports_from_a_later_room():
    back = [
        f"{'.'.join(name)} imports {'.'.join(other)}"
        for name, path in MODULES.items()
        if name[0] not in ENTRANCES
        for other in imports(path)
        if ROOMS.index(other[0]) > ROOMS.index(name[0])
    ]
    assert not back


def test_the_page_on_architecture_says_who_imports_from_whom():
    lines = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1:4] for line in lines if line.startswith("| `")]
    told = {tuple(re.findall(r"`(\w+)/?`", row[0])): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    values = next(iter(told))
    rooms = {room[0]: others for room, others in told.items() if len(room) == 1}
    assert {*values, *rooms} == set(ROOMS)
    for room, others in rooms.items():
        found = {other[0] for name, path in MODULES.items() if name[0] == room for other in imports(path)}
        assert found - {room, *values} == others, room


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {other for other in imports(path) if other in MODULES} for name, path in MODULES.items()}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, "a circle runs through these modules"


@pytest.mark.parametrize(
    "room", ["ui", "server", "evaluation", "cli", "workbench", "saved_run", "charts", "explaining", "methods"]
)
def test_what_stands_above_the_engine_names_no_torch(room):
    for name, path in MODULES.items():
        if name[0] == room:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
            named += [
                str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
            ]
            assert not [module for module in named if module.split(".")[0] == "torch"], path


def test_the_plugin_imports_what_vllms_environment_has():
    plugin = ("engines", "vllm_plugin")
    # fastapi, starlette and huggingface_hub come with vLLM, triton with a torch for CUDA; of the project what is light.
    others = {"torch", "numpy", "vllm", "triton", "fastapi", "starlette", "huggingface_hub", "cmrm"}
    others |= sys.stdlib_module_names
    ours = {("errors",), ("files",), ("settings",), ("steering", "vectors")}
    files = {name: path for name, path in MODULES.items() if name[:2] == plugin}
    assert files
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        named += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        assert {module.split(".")[0] for module in named} <= others, name
        assert {other for other in imports(path) if other[:2] != plugin} <= ours, name


def test_help_is_there_at_once_and_loads_no_torch():
    code = "import sys, runpy; sys.argv = ['cmrm', '--help']\ntry: runpy.run_module('cmrm', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'gradio' not in sys.modules"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - started < 5  # 0.1 s on an idle machine
