"""The command line as a user runs it: results on stdout, messages on stderr, status 2 for bad input."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from cmrm import CmrmError, Offsets, Settings, Vlm
from cmrm.saved_run import Run


@pytest.fixture
def run(command_line):
    return command_line


def run_alone(*arguments):
    """In a process of its own; most tests do without, as that takes seconds to begin."""
    command = [sys.executable, "-m", "cmrm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small(monkeypatch, checkpoint, offsets, tmp_path) -> None:
    """A tiny model in place of the pocket one."""
    offsets.save(tmp_path / "small.safetensors")
    monkeypatch.setenv("CMRM_MODEL", checkpoint)
    monkeypatch.setenv("CMRM_OFFSETS", str(tmp_path / "small.safetensors"))


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    path = tmp_path_factory.mktemp("anchors") / "mine.jsonl"
    path.write_text('{"text": "a cat", "group": "harmless"}\n{"text": "pick a lock", "group": "harmful"}\n')
    return path


def test_extract_then_compare_with_the_file(checkpoint, anchors, tmp_path):
    out = tmp_path / "offsets.safetensors"
    made = run_alone("extract", "--model", checkpoint, "--anchors", anchors, "--estimator", "mean", "--out", out)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["origin"]["anchors"] == 2
    assert "passes" in made.stderr
    assert Offsets.load(out).origin.estimator == "mean"
    tiny.PICTURE.save(tmp_path / "picture.png")
    done = run_alone(
        "compare", "--model", checkpoint, "--offsets", out, "--image", tmp_path / "picture.png",
        "--prompt", "What?", "--alpha", 0.5, "--max-new-tokens", 3, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["unsteered"]["alpha"] == 0
    assert answer["steered"]["alpha"] == 0.5
    assert answer["model"]["quantization"] == "nf4"


def test_sweep_has_a_row_for_each_alpha(run, checkpoint, offsets, tmp_path):
    offsets.save(tmp_path / "offsets.safetensors")
    options = ("--model", checkpoint, "--offsets", tmp_path / "offsets.safetensors", "--max-new-tokens", 3)
    done = run("sweep", *options, "--prompt", "What?", "--alphas", "0:1:0.5", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["alpha"] for row in rows] == [0, 0.5, 1]
    assert all(row["fluency"] < 0 and row["verdict"] for row in rows)


def test_inspect_says_what_a_file_is(run, offsets, tmp_path):
    path = tmp_path / "mine.safetensors"
    offsets.save(path)
    machine = run("inspect", path, "--json")
    header = json.loads(machine.stdout)
    assert header["fits"]["model"] == "tiny"
    assert len(header["norms"]) == header["fits"]["layers"] == 4
    person = run("inspect", path)
    assert (machine.returncode, person.returncode) == (0, 0)
    for value in ("tiny", "LlavaForConditionalGeneration/llama", "mean", header["origin"]["anchors_sha256"]):
        assert value in person.stdout
    assert f"{header['norms'][0]:g}" in person.stdout


def test_inspect_does_not_hand_the_terminal_to_a_file(run, offsets, tmp_path):
    path = tmp_path / "mine.safetensors"
    Offsets(offsets.values, fits=replace(offsets.fits, model="\x1b[2Jpocket\nlayers 99")).save(path)
    done = run("inspect", path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\nlayers 99" not in done.stdout


def test_inspect_reads_the_hub_and_refuses_what_is_no_offsets_file(run, damaged, offsets, tmp_path, monkeypatch):
    commit = "0" * 40
    repository = tmp_path / "models--someone--offsets"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    offsets.save(repository / "snapshots" / commit / "mine.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    there = run("inspect", "hf://someone/offsets/mine.safetensors", "--json")
    assert json.loads(there.stdout)["fits"]["model"] == "tiny"
    for file in (damaged / "cut.safetensors", damaged / "none", "hf://someone/offsets/other.safetensors"):
        done = run("inspect", file)
        assert done.returncode == 2
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1


def test_inspect_needs_no_torch(offsets, tmp_path):
    offsets.save(tmp_path / "mine.safetensors")
    code = (
        "import sys; from cmrm.steering.offsets import Offsets; Offsets.load(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mine.safetensors")]
    assert subprocess.run(command, check=False).returncode == 0


def test_layers_left_unquantized_are_one_line_of_stderr(run, anchors, tmp_path):
    tiny.llava(hidden=96).save_pretrained(tmp_path / "odd")
    tiny.processor().save_pretrained(tmp_path / "odd")
    options = ("--model", tmp_path / "odd", "--quantization", "fp4", "--device-map", "cpu")
    out = tmp_path / "offsets.safetensors"
    made = run("extract", *options, "--anchors", anchors, "--out", out)
    done = run("compare", *options, "--offsets", out, "--prompt", "What?", "--max-new-tokens", 2, "--json")
    assert json.loads(made.stdout)["fits"]["quantization"] == "fp4"
    assert json.loads(done.stdout)["model"]["quantization"] == "fp4"
    for one in (made, done):
        lines = [line for line in one.stderr.splitlines() if "stay unquantized" in line]
        assert len(lines) == 1
        assert lines[0].startswith("24 of 28 linear layers")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, offsets):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    tiny.PICTURE.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    Image.new("1", (20_000, 20_000)).save(folder / "vast.png")
    offsets.save(folder / "other.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "other.safetensors").read_bytes()[:-9])
    return folder


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--image", "empty.png", "could not be read"),
        ("--image", "text.png", "could not be read"),
        ("--image", "cut.png", "could not be read"),
        ("--image", "vast.png", "megapixels"),
        ("--offsets", "cut.safetensors", "no whole CMRM offsets file"),
    ],
)
def test_damaged_and_foreign_files_are_one_sentence_and_status_2(run, small, damaged, option, name, says):
    done = run("compare", "--prompt", "What?", option, damaged / name)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_offsets_of_another_model_are_one_sentence_and_status_2(run, damaged):
    done = run("compare", "--prompt", "What?", "--offsets", damaged / "other.safetensors")
    assert done.returncode == 2
    assert "compute offsets for this model" in done.stderr


@pytest.mark.parametrize("alphas", ["", "0:2", "0:2:-1", "1,two", "0,5"])
def test_a_malformed_range_of_alphas_is_refused(run, alphas):
    done = run("sweep", "--prompt", "What?", "--alphas", alphas)
    assert done.returncode == 2
    assert "alpha" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt", "x" * 100_000], "100,000 characters"),
        (["--prompt", "x", "--alpha", "-1"], "alpha is -1.0"),
        (["--prompt", "x", "--alpha", "nan"], "alpha is nan"),
        (["--prompt", "x", "--alpha", "3"], "alpha is 3.0"),
        (["--prompt", "x", "--method", "magic"], "magic"),
        (["--prompt", "x", "--quantization", "int3"], "int3"),
        (["--prompt", "x", "--device-map", "cuda:9"], "'cuda:9', which this machine does not have"),
        (["--prompt", "x", "--device-map", "{model"], "must be JSON"),
        (["--prompt", "x", "--quantization", "nf4", "--device-map", '{"": "disk"}'], "can't offload quantized layers"),
        (["--prompt", "x", "--image", "nowhere.png"], "no image file"),
        (["--prompt", "x", "--model", "/nowhere"], "no model in the folder"),
        (["--prompt", "x", "--offsets", "nowhere.safetensors"], "no offsets file"),
        (["--image", "x.png"], "--prompt"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(run, small, arguments, says):
    check_rejected(run("compare", *arguments), says)


@pytest.mark.parametrize(("arguments", "says"), [(["--prompt", " "], "prompt is empty"), ([], "--prompt")])
def test_so_it_is_in_a_process_of_its_own(arguments, says):
    check_rejected(run_alone("compare", *arguments), says)


def check_rejected(done, says) -> None:
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_run_is_repeated_from_its_json(run, checkpoint, offsets, tmp_path):
    offsets.save(tmp_path / "offsets.safetensors")
    tiny.PICTURE.save(tmp_path / "picture.png")
    placed = ("--model", checkpoint, "--quantization", "none", "--offsets", tmp_path / "offsets.safetensors")
    asked = ("--image", tmp_path / "picture.png", "--prompt", "What?", "--layers", "1-2", "--steps", "all", "--seed", 5)
    drawn = ("--temperature", 1.5, "--top-p", 0.9, "--third", "random", "--max-new-tokens", 6)
    done = run("compare", *placed, *asked, *drawn, "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["settings"]["layers"] == [1, 2]
    assert made["settings"]["alpha"] == made["third"]["alpha"] == 1
    assert made["model"]["quantization"] == "none"
    (tmp_path / "picture.png").unlink()
    file = tmp_path / "run.json"
    file.write_text(done.stdout)
    again = run("repeat", file, *placed)
    assert (again.returncode, "are those of the run" in again.stderr) == (0, True), again.stderr
    assert made["steered"]["text"] in again.stdout
    made["steered"]["text"] += " more"
    made["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(made))
    other = run("repeat", file, *placed)
    assert other.returncode == 1
    assert "torch was 1.0" in other.stderr
    assert "differ" in other.stderr
    for key in ("model", "prompt", "image", "settings", "offsets", "versions"):
        file.write_text(json.dumps({name: value for name, value in made.items() if name != key}))
        with pytest.raises(CmrmError, match="is no run"):
            Run.read(file)
    file.write_text(json.dumps({**made, "prompt": 5}))
    with pytest.raises(CmrmError, match="is no run"):
        Run.read(file)
    gone = run("repeat", file, "--engine", "vllm", "--engine-url", "http://127.0.0.1:9")
    assert gone.returncode == 2


def test_a_run_of_a_checkpoint_that_came_quantized_is_repeated_by_its_folder(run, checkpoint, tmp_path):
    saved = Vlm.load(checkpoint, "int8")
    saved.model.save_pretrained(tmp_path / "small")
    saved.processor.save_pretrained(tmp_path / "small")
    Offsets(np.ones((4, 64), np.float32), fits=saved.identity).save(tmp_path / "offsets.safetensors")
    placed = ("--model", tmp_path / "small", "--offsets", tmp_path / "offsets.safetensors")
    done = run("compare", *placed, "--prompt", "What?", "--max-new-tokens", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["quantization"] == "int8"
    file = tmp_path / "run.json"
    file.write_text(done.stdout)
    again = run("repeat", file, *placed)
    assert (again.returncode, "are those of the run" in again.stderr) == (0, True), again.stderr
    lost = run("repeat", file)
    assert lost.returncode == 2
    assert lost.stderr == ("Error: This run was made with the model in a folder (small); give the folder by --model.\n")


def test_a_run_is_repeated_as_it_was_quantized(checkpoint, tmp_path):
    identity = Vlm.load(checkpoint, "none").identity

    def chosen(model, quantization, given=None):
        made = Run("", Settings(), replace(identity, model=model, quantization=quantization), [], {}, None, None)
        return made.source("", given)

    for name in ("nf4", "fp4", "int8", "none"):
        assert chosen("pocket", name) == ("pocket", name)
    assert chosen("someone/model", "awq") == ("someone/model", "auto")
    assert chosen("someone/model", "fp4", "none") == ("someone/model", "none")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 9}'])
def test_a_file_that_is_no_run_is_refused_in_one_sentence(tmp_path, content):
    file = tmp_path / "run.json"
    file.write_text(content)
    with pytest.raises(CmrmError, match="is no run"):
        Run.read(file)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "--prompt", "x", "--offsets", "/nowhere.safetensors"], "no offsets file"),
        (["extract", "--out", "x", "--anchors", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["evaluate", "--offsets", "/nowhere.safetensors"], "no offsets file"),
        (["evaluate", "--judge", "/nowhere"], "no model in the folder"),
        (["app", "--offsets", "/nowhere.safetensors"], "no offsets file"),
    ],
)
def test_what_is_wrong_without_a_model_is_told_before_one_is_loaded(run, monkeypatch, arguments, says):
    monkeypatch.setattr("cmrm.engines.opening.LocalEngine.load", None)
    check_rejected(run(*arguments), says)
