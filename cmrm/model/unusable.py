"""Why a model can't be used, in one sentence: what it is, and what to do."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    GenerationMixin,
    PretrainedConfig,
)

from ..errors import CmrmError, first_sentence

_PACKAGE = re.compile(r"requires the (\w+) library|[Pp]ackage `([\w-]+)` is required|No module named '(\w+)")


def check_files(source: str) -> None:
    """Raise `CmrmError` if `source` is written as a folder and holds no transformers model."""
    folder = Path(source)
    if (folder / "model_index.json").is_file():
        raise CmrmError(
            f"{source!r} is a diffusion pipeline (model_index.json), which makes images and no text; use a VLM."
        )
    if source.startswith((".", "/", "~")) and not (folder / "config.json").is_file():
        raise CmrmError(f"There is no model in the folder {source!r} (no config.json); check the path.")


def check_architecture(name: str, config: PretrainedConfig) -> None:
    """Raise `CmrmError` unless the config is of a VLM that answers token by token with a decoder of its own."""
    kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    text = getattr(config, "text_config", None)
    if config.is_encoder_decoder or getattr(text, "is_encoder_decoder", False):
        what = "is an encoder-decoder, whose image and prompt never pass through the decoder layers that are steered"
    elif kind is None and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = "is a text-only model, so an image can't change its answers"
    elif kind is None:
        what = "is no image-text-to-text model"
    elif "image" not in kind.input_modalities:
        what = "takes no images"
    elif not issubclass(kind, GenerationMixin):
        what = "does not answer token by token (it is a diffusion or action model)"
    else:
        return
    raise CmrmError(
        f"The model {name!r} ({config.model_type}) {what}; use a decoder-only VLM such as LLaVA or Qwen2.5-VL."
    )


def check_complete(name: str, missing: Collection[str]) -> None:
    """Raise `CmrmError` if the checkpoint held no values for some weights, which would be random then.

    `missing` are transformers' `missing_keys`, which leave out tied weights and what is computed from the config. All
    are named, where there are many those of all layers at once.
    """
    if missing:
        few = len(missing) <= 8
        names = ", ".join(sorted({key if few else re.sub(r"\.\d+(?=\.)", ".*", key) for key in missing}))
        raise CmrmError(
            f"The checkpoint of the model {name!r} lacks {len(missing)} of its weights ({names}), which would be "
            "random; download or save it again."
        )


_REMEDY = "give a folder of a VLM saved with save_pretrained, a hub model id, or 'pocket'"


@contextmanager
def reword_errors(name: str, source: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn whatever loading raises, by many types, into one `CmrmError`; `remedy` ends that of an unknown reason."""
    try:
        yield
    except CmrmError:
        raise
    except Exception as error:
        raise CmrmError(f"The model {name!r} could not be loaded: {_reason(error, Path(source), remedy)}.") from error


def _reason(error: Exception, folder: Path, remedy: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError) and (found := _PACKAGE.search(text)):
        package = next(filter(None, found.groups())).lower()
        return f"it needs the package {package}, which is not installed; run `pip install {package}`"
    if "trust_remote_code" in text:
        return (
            "it needs code of its own (remote code), which is never run here; use a version of it that transformers "
            "itself can load, often named with -hf"
        )
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return "its type is not known to the installed transformers; update transformers or use another VLM"
    if damaged := [path.name for path in sorted(folder.glob("*.safetensors")) if not _whole(path)]:
        return f"its weights file {damaged[0]} is damaged or cut short; download or save it again"
    if missing := re.search(r"No such file.*?([^/\\]+\.safetensors)", text):
        return f"its weights file {missing[1]} is missing; download or save it again"
    if "no file named model.safetensors" in text:
        return "it has no safetensors weights, and pickled ones are never read; convert them, or use another version"
    if "dispatched on the CPU or the disk" in text:
        return (
            "it does not fit where it was to go without offloading, and bitsandbytes can't offload quantized layers; "
            "use quantization 'none', or a device map of GPUs alone or of the CPU alone"
        )
    return f"{first_sentence(error)}; {remedy}"


def _whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
