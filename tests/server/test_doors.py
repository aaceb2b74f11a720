"""Doors that must stay shut on a public page; each test tries one."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from serving import CIRCLE, answered, free_port, serving, workbench

from cmrm.server import downloads as fetching
from cmrm.server.limits import MOST_BODY

ROOT = Path(__file__).parents[2]
TOKEN = "hf_thisTokenMustNeverBeSeenAnywhere"
PROMPT = "Zanzibar marmalade, what colour?"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


@dataclass
class Server:
    """`app.py` as a Space runs it, with a secret in its environment; `log` is all that it says."""

    url: str
    log: Path
    temporary: Path

    def get(self, path: str, **options) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=20, **options)


@pytest.fixture(scope="module")
def server(checkpoint, offsets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    offsets.save(folder / "offsets.safetensors")
    port = free_port()
    variables = {
        "CMRM_MODEL": checkpoint,
        "CMRM_QUANTIZATION": "none",
        "CMRM_OFFSETS": str(folder / "offsets.safetensors"),
        "CMRM_HOST": "127.0.0.1",
        "CMRM_PORT": str(port),
        "HF_TOKEN": TOKEN,
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
    }
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(ROOT / "app.py")]
        app = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log, cwd=ROOT)
        try:
            answered(f"http://127.0.0.1:{port}")
            yield Server(f"http://127.0.0.1:{port}", folder / "log", folder / "uploads")
        finally:
            app.terminate()
            app.wait()


@pytest.fixture(scope="module")
def client(server):
    client = Client(server.url, verbose=False)
    yield client
    client.close()


def ask(client, **changes) -> tuple:
    return client.predict(**{"prompt": PROMPT, "max_new_tokens": 3, **changes}, api_name="/compare")


def uploaded(server, name: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}/gradio_api/upload", files={"files": (name, content, "image/png")}, timeout=60)


PATHS = [
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "....//....//....//etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "file:///etc/passwd",
    "app.py",
    "requirements.txt",
    "cmrm/ui/compare.py",
    str(ROOT / "app.py"),
    str(ROOT / "cmrm" / "workbench.py"),
    str(ROOT / "assets" / "pocket" / "config.json"),
    "assets/../app.py",
    "C:\\Windows\\win.ini",
    "\\\\127.0.0.1\\share",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
def test_no_file_of_the_machine_or_the_project_is_served(server, route, path):
    for follow in (False, True):
        response = server.get(f"{route}{path}", follow_redirects=follow)
        assert response.status_code in (307, 400, 403, 404, 405)
        assert b"root:" not in response.content
        assert b"import" not in response.content


def test_no_link_and_no_neighbour_of_an_upload_is_served(server):
    place = Path(uploaded(server, "a.png", CIRCLE.read_bytes()).json()[0])
    assert server.get(f"/gradio_api/file={place}").status_code == 200
    assert server.get(f"/gradio_api/file={place.parent}").status_code in (403, 404)
    for target in ("/etc/passwd", ROOT / "app.py"):
        link = place.parent / f"link-{Path(target).name}"
        link.symlink_to(target)
        response = server.get(f"/gradio_api/file={link}")
        assert response.status_code in (403, 404)
        climbing = f"{place.parent}/../../../../../../../../..{target}"
        assert server.get(f"/gradio_api/file={climbing}").status_code in (403, 404)


def test_a_link_or_a_file_of_the_server_is_no_image(server, client):
    for path in ("/etc/passwd", str(ROOT / "app.py"), str(CIRCLE.parent.parent / "pocket" / "config.json")):
        call = httpx.post(
            f"{server.url}/gradio_api/call/v2/compare",
            json={"image": {"path": path, "meta": {"_type": "gradio.FileData"}}, "prompt": "hi"},
        ).json()
        said = server.get(f"/gradio_api/call/v2/compare/{call['event_id']}").text
        assert "event: error" in said
        assert "root:" not in said
    assert ask(client)[2]["done"]


PRIVATE = [
    "http://127.0.0.1:{port}/a.png",
    "http://localhost:{port}/a.png",
    "http://localhost.:{port}/a.png",
    "http://[::1]:{port}/a.png",
    "http://[::ffff:127.0.0.1]:{port}/a.png",
    "http://0.0.0.0:{port}/a.png",
    "http://2130706433:{port}/a.png",
    "http://0x7f.1:{port}/a.png",
    "http://{host}:{port}/a.png",
    "http://user:word@127.0.0.1:{port}/a.png",
    "http://169.254.169.254/latest/meta-data/a.png",
    "http://10.0.0.1/a.png",
    "http://192.168.0.1/a.png",
    "http://[fd00::1]/a.png",
    "http://100.64.0.1/a.png",
]


@pytest.fixture(scope="module")
def private():
    """A server on this machine that holds a picture and counts who comes."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CIRCLE.read_bytes())

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield listening.server_port, seen
    listening.shutdown()


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_fetched(server, client, private, address):
    port, seen = private
    url = address.format(port=port, host=socket.gethostname())
    with pytest.raises(AppError, match=r"not a public address|could not be fetched"):
        ask(client, image=handle_file(url))
    assert server.get(f"/gradio_api/file={url}").status_code >= 400
    assert server.get(f"/gradio_api/proxy={url}").status_code >= 400
    assert not seen


class Far(BaseHTTPRequestHandler):
    """What a server somewhere may do to who fetches a picture."""

    def do_GET(self):
        self.send_response(302 if self.path == "/inwards" else 404 if self.path == "/none" else 200)
        if self.path == "/inwards":
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/picture")
        self.end_headers()
        if self.path == "/picture":
            self.wfile.write(CIRCLE.read_bytes())
        while self.path in ("/endless", "/slow"):
            try:
                self.wfile.write(b"x" * 65536 if self.path == "/endless" else b"x")
            except OSError:
                return
            time.sleep(0 if self.path == "/endless" else 0.1)

    def log_message(self, *_):
        pass


def test_a_picture_by_url_is_fetched_and_no_more_or_longer_than_an_upload(monkeypatch, tmp_path):
    whole = fetching.public_address

    async def resolved(host: str) -> str:
        return "127.0.0.1" if host == "far.example" else await whole(host)

    monkeypatch.setattr(fetching, "public_address", resolved)
    monkeypatch.setattr(fetching, "SECONDS", 8.0)
    monkeypatch.setattr(fetching, "MOST_BYTES", 1_000_000)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    far = ThreadingHTTPServer(("127.0.0.1", 0), Far)
    Thread(target=far.serve_forever, daemon=True).start()
    refused = {
        "/endless": "more than 1 MB",
        "/slow": "more than 8 s",
        "/inwards": "not a public",
        "/none": "status 404",
    }
    with serving(workbench()) as served:
        client = Client(served.url, verbose=False)
        assert (
            ask(client, image=handle_file(f"http://far.example:{far.server_port}/picture"))[:2]
            == (ask(client, image=handle_file(str(CIRCLE)))[:2])
        )
        kept = set(tmp_path.rglob("*"))
        for path, says in refused.items():
            with pytest.raises(AppError, match=says) as caught:
                ask(client, image=handle_file(f"http://far.example:{far.server_port}{path}"))
            assert str(caught.value).endswith("upload it instead.")
        assert set(tmp_path.rglob("*")) == kept
        assert ask(client)[2]["done"]
        client.close()
    far.shutdown()


def test_uploads_are_limited_in_size(server):
    assert uploaded(server, "small.png", b"x" * 1000).status_code == 200
    response = uploaded(server, "large.png", b"x" * (51 << 20))
    assert response.status_code >= 400
    assert not [path for path in server.temporary.rglob("large*") if path.stat().st_size > 50 << 20]


@pytest.mark.parametrize("route", ["call/compare", "call/v2/compare", "queue/join"])
def test_calls_are_limited_in_size(server, client, route):
    body = b'{"prompt": "' + b"x" * MOST_BODY + b'"}'
    url, kind = f"{server.url}/gradio_api/{route}", {"Content-Type": "application/json"}
    response = httpx.post(url, content=body, headers=kind, timeout=60)
    assert response.status_code == 413
    assert response.json()["detail"] == "The request has more than 64 MB; send less."
    assert ask(client)


def test_uploads_are_deleted_after_a_while(monkeypatch):
    monkeypatch.setattr("cmrm.ui.page.UPLOADS_KEPT", 3)
    with serving(workbench()) as served:
        answer = httpx.post(
            f"{served.url}gradio_api/upload", files={"files": ("mine.png", os.urandom(99), "image/png")}
        )
        upload = Path(answer.json()[0])
        assert upload.exists()
        end = time.monotonic() + 60
        while upload.exists() and time.monotonic() < end:
            time.sleep(0.3)
        assert not upload.exists()


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>.png", "../../../../evil.png", "a.svg", "a.html"])
def test_what_is_uploaded_under_a_hostile_name_does_no_harm(server, name):
    page = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    place = uploaded(server, name, page).json()[0]
    assert Path(place).resolve().is_relative_to(server.temporary.resolve())
    assert "<" not in place
    response = server.get(f"/gradio_api/file={place}")
    if response.status_code == 200:
        shown_as_a_page = response.headers["content-type"].startswith(("text/html", "image/svg"))
        assert not shown_as_a_page or response.headers["content-disposition"].startswith("attachment")


def test_no_secret_and_no_prompt_is_shown_or_logged(server, client):
    ask(client, image=handle_file(str(CIRCLE)))
    with pytest.raises(AppError):
        ask(client, alpha=9)
    pages = [
        "/",
        "/config",
        "/gradio_api/info",
        "/gradio_api/startup-events",
        "/theme.css",
        "/robots.txt",
        "/manifest.json",
    ]
    for page in pages:
        text = server.get(page).text
        assert TOKEN not in text
        assert PROMPT not in text
        assert str(ROOT) not in text or page == "/config"
    log = server.log.read_text()
    assert TOKEN not in log
    assert PROMPT not in log
    assert "marmalade" not in log


@pytest.mark.parametrize("path", ["/monitoring", "/monitoring/summary", "/monitoring/x", "/docs", "/redoc"])
def test_nothing_about_visitors_or_routes_is_published(server, path):
    assert server.get(path).status_code in (403, 404)


def test_many_refused_requests_leave_the_page_as_it_was(server, client):
    expected = ask(client)[:2]

    def attack(number: int) -> bool:
        try:
            ask(client, alpha=-number)
        except AppError:
            return True
        return number == 0

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(attack, range(24)))
    assert ask(client)[:2] == expected
