"""The processor of a model: what prepares images and lays out a turn by the chat template."""

import json
from typing import Any

from jinja2 import TemplateError
from PIL import Image
from transformers import PROCESSOR_MAPPING, AutoProcessor, PretrainedConfig, ProcessorMixin
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from ..errors import CmrmError
from ..images import corrupted_image
from ..settings import Corruption
from .prompts import PROMPT_MARK

_BLANK_SIDE, _LONGEST_SIDE = 336, 1024

# The image's place, the text, and nothing else: for models that were not trained on turns.
_PLAIN = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ IMAGE }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
# Put before a template whose messages hold strings: it joins the parts of each message into one.
_JOINED = (
    "{%- set joined = namespace(messages=[]) -%}{%- for message in messages -%}{%- set whole = namespace(text='') -%}"
    "{%- for part in message['content'] -%}{%- set whole.text = whole.text ~ "
    "(IMAGE ~ '\\n' if part['type'] == 'image' else part['text']) -%}{%- endfor -%}"
    "{%- set joined.messages = joined.messages + [{'role': message['role'], 'content': whole.text}] -%}{%- endfor -%}"
    "{%- set messages = joined.messages -%}"
)


def load_processor(name: str, source: str, config: PretrainedConfig, plain_template: bool = False) -> ProcessorMixin:
    """Load a model's processor, with the chat template of its tokenizer if it has none of its own.

    `plain_template` lays out prompts as bare text behind the image where there is no chat template at all.

    Raises:
        CmrmError: no processor, or no chat template that lays out a turn.
    """
    try:
        processor = _images_only(source, config) or AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise _no_processor(name) from error
    if not isinstance(processor, ProcessorMixin):
        raise _no_processor(name)
    processor.chat_template = _template_of(name, processor, plain_template)
    return processor


def blank_image(processor: ProcessorMixin, corruption: Corruption, seed: int = 0) -> Image.Image:
    """Return the meaningless image of the method, in the size the model looks at."""
    settings = processor.image_processor
    size = getattr(settings, "size", None) or {}
    side = size.get("height") or size.get("shortest_edge") or 0
    if not 0 < side <= _LONGEST_SIDE:  # Qwen2-VL and its kin mean an area by "shortest_edge"
        side = _BLANK_SIDE
    mean = getattr(settings, "image_mean", None) or (0.5, 0.5, 0.5)
    return corrupted_image(corruption, (side, side), tuple(mean), seed)


def _no_processor(name: str) -> CmrmError:
    return CmrmError(
        f"The model {name!r} has no whole processor, which prepares images and prompts; add the files that "
        "processor.save_pretrained writes (preprocessor_config.json, tokenizer.json, ...) from the original model."
    )


def _template_of(name: str, processor: ProcessorMixin, plain: bool) -> str:
    image = json.dumps(getattr(processor, "image_token", None) or "")
    own = (
        processor.chat_template
        or processor.tokenizer.chat_template
        or (_PLAIN.replace("IMAGE", image) if plain else "")
    )
    if isinstance(own, dict):
        own = own.get("default", "")
    if not own:
        raise CmrmError(
            f"The model {name!r} has no chat template, so it was not trained to answer turns; use an instruction-tuned "
            "VLM, or ask for a plain template (--plain-template), which shows the image and the bare prompt."
        )
    for template in (own, _JOINED.replace("IMAGE", image) + own):
        if _lays_out(processor, template):
            return template
    raise CmrmError(f"The chat template of the model {name!r} can't lay out a prompt; correct it, or use another VLM.")


def _lays_out(processor: ProcessorMixin, template: str) -> bool:
    """Whether a template writes out the text of a message of parts, not the list that holds it."""
    turn = [{"role": "user", "content": [{"type": "text", "text": PROMPT_MARK}]}]
    try:
        text = processor.apply_chat_template(turn, chat_template=template, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError):
        return False
    return PROMPT_MARK in text and f"'{PROMPT_MARK}'" not in text


def _images_only(source: str, config: PretrainedConfig) -> ProcessorMixin | None:
    """Load a processor without its part for videos where that lacks torchvision; None where nothing lacks.

    Only images are ever given, and for those transformers needs Pillow alone.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or kind is None or "video_processor" not in kind.get_attributes():
        return None

    class ImagesOnly(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument and super().check_argument_for_proper_class(argument_name, argument)

        # Some classes look up settings of videos for each layout.
        apply_chat_template = ProcessorMixin.apply_chat_template

    ImagesOnly.__name__ = ImagesOnly.__qualname__ = kind.__name__
    parts = [
        None
        if part == "video_processor"
        else MODALITY_TO_AUTOPROCESSOR_MAPPING[part].from_pretrained(source, trust_remote_code=False)
        for part in kind.get_attributes()
    ]
    settings, _ = kind.get_processor_dict(source)
    processor: ProcessorMixin = ImagesOnly.from_args_and_dict(parts, settings)
    return processor
