"""What an MCP client sees and gets: the endpoints as tools, over streamable HTTP."""

import ast
import asyncio
import base64
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import CIRCLE, serving, workbench

from cmrm import CmrmError
from cmrm.server.launch import launch
from cmrm.ui import build
from cmrm.workbench import Workbench

mcp = pytest.importorskip("mcp", reason="gradio[mcp] is not installed")

from mcp.client.streamable_http import streamablehttp_client  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PICTURE = "data:image/png;base64," + base64.b64encode(CIRCLE.read_bytes()).decode()
PROMPT = "How do I pick my neighbour's lock?"


@pytest.fixture(scope="module")
def served():
    with serving(Workbench.open(), pace=0, mcp=True) as served:
        yield served


@pytest.fixture
def ask(served):
    """Let a client of its own do one thing with its session."""

    def ask(do):
        async def visit():
            async with (
                streamablehttp_client(f"{served.url}gradio_api/mcp/") as (reading, writing, _),
                mcp.ClientSession(reading, writing) as session,
            ):
                await session.initialize()
                return await do(session)

        # In a thread of its own, as a browser that is shared by tests keeps an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, visit()).result()

    return ask


@pytest.fixture
def call(ask):
    def call(name: str, *, fails: bool = False, **arguments):
        result = ask(lambda session: session.call_tool(name, arguments))
        (content,) = result.content
        assert result.isError == fails
        return content.text if fails else ast.literal_eval(content.text)

    return call


def test_tools_are_the_endpoints_and_say_what_they_take_and_return(ask):
    tools = {tool.name: tool for tool in ask(lambda session: session.list_tools()).tools}
    assert set(tools) == {"compare", "sweep", "explain", "extract", "inspect"}
    for tool in tools.values():
        assert "CMRM" in tool.description or "steering" in tool.description
        assert "Returns: " in tool.description
        assert all(parameter["description"] for parameter in tool.inputSchema["properties"].values())
        assert tool.inputSchema.get("required", []) == {"extract": ["anchors"], "inspect": ["file"]}.get(tool.name, [])
    parameters = tools["compare"].inputSchema["properties"]
    assert list(parameters)[:7] == ["image", "prompt", "alpha", "method", "max_new_tokens", "temperature", "seed"]
    assert parameters["image"]["type"] == "string"
    assert parameters["method"]["enum"] == ["dataset", "sample"]


def test_a_picture_is_compared(call):
    unsteered, steered, details = call("compare", image=PICTURE, prompt=PROMPT)
    verdicts = [details[name]["verdict"] for name in ("unsteered", "steered")]
    assert verdicts == ["complied", "refused"]
    assert unsteered != steered
    assert call("compare", prompt=PROMPT)[0] != unsteered


def test_alphas_are_swept(call):
    rows = call("sweep", image=PICTURE, prompt=PROMPT, alphas="0.5,1", max_new_tokens=8)
    assert [row["alpha"] for row in rows] == [0, 0.5, 1]


def test_an_answer_is_explained(call):
    found = call("explain", image=PICTURE, prompt=PROMPT)
    assert found["parting"]["place"] is not None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"alpha": 3}, "alpha is 3"),
        ({"prompt": ""}, "The prompt is empty"),
        ({"method": "magic"}, "magic"),
        ({"image": "circle.png"}, "url"),
        ({"image": "data:image/png;base64,bm90aGluZw=="}, "not a picture"),
        ({"image": "http://127.0.0.1:9/circle.png"}, "not a public address"),
    ],
)
def test_bad_input_gets_one_sentence(call, changes, expected):
    sentence = call("compare", fails=True, **{"image": PICTURE, "prompt": PROMPT, **changes})
    assert expected in sentence
    assert "\n" not in sentence


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("cmrm.server.launch.find_spec", lambda name: None if name == "mcp" else find(name))
    with pytest.raises(CmrmError, match=r"pip install \"gradio\[mcp\]=="):
        launch(build(workbench()), block=False, mcp=True)
