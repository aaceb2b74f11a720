"""One vision-language model with its processor: loading, prompts as tokens, what it is."""

import tempfile
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from ..errors import CmrmError, first_sentence
from ..files import POCKET_FOLDER, fingerprint, source_of
from ..settings import Corruption, DeviceMap, Quantization, check_choice, check_prompt
from .identity import LOCAL, Identity
from .layers import decoder_layers, path_of
from .network import Inputs, Network
from .placement import checked_device_map, free_memory
from .probe import probe
from .processor import blank_image, load_processor
from .prompts import check_length, neutralise, template_markers
from .quantization import cast_unquantized, load_settings, quantization_of, shape_notes
from .unusable import check_architecture, check_complete, check_files, reword_errors


class Vlm:
    """A loaded model, its processor and the decoder layers that steering hooks: those that run on a text alone.

    All requests share it. `notes` are sentences about how it was loaded that a user should see.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, *, name: str = "", revision: str = ""):
        if not isinstance(processor, ProcessorMixin):
            raise CmrmError("The processor handles no images, so this is a text-only model; use a VLM.")
        if not getattr(processor, "chat_template", None):
            raise CmrmError(
                "The model has no chat template, so prompts can't be laid out; use an instruction-tuned VLM."
            )
        name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        check_architecture(name, model.config)
        self.network = Network(model)
        self.processor = processor
        text_config = self.network.config
        self.context_length: int | None = getattr(text_config, "max_position_embeddings", None)
        self._markers = template_markers(processor)
        quantization = quantization_of(model.config)
        notes = shape_notes(model, quantization)
        found = probe(self.network, self.encode("What is in the picture?", None), decoder_layers(model))
        self.layers: tuple[nn.Module, ...] = found.layers
        self.network.plain_batch = found.plain_batch
        self.identity = Identity(
            model=name,
            revision=revision,
            architecture=f"{type(model).__name__}/{text_config.model_type}",
            hidden=text_config.hidden_size,
            layers=len(self.layers),
            quantization=quantization,
            dtype=str(model.dtype).removeprefix("torch."),
        )
        split = (f"Each row reads the whole prompt, as {found.plain_batch}.",) if found.plain_batch else ()
        self.notes = (*notes, *split)

    @classmethod
    def load(
        cls,
        model: str | Path = "pocket",
        quantization: Quantization = "auto",
        device_map: DeviceMap | None = None,
        *,
        plain_template: bool = False,
    ) -> "Vlm":
        """Load "pocket", a folder, or a model of the Hugging Face hub, from safetensors only.

        `quantization` "auto" is NF4 unless the checkpoint is already quantized; "nf4", "fp4", "int8" and
        "none" say it outright. Only the text decoder is quantized. `device_map` is accelerate's: a device,
        "auto" (the default with CUDA), "balanced" or "sequential", or a dict from modules to devices, "cpu"
        and "disk"; parts that don't fit a device are offloaded, but never of a quantized model. Remote code
        is never run. `plain_template` shows a model without a chat template, such as PaliGemma, the image and
        the bare prompt.

        Raises:
            CmrmError: an unknown quantization or device, or a model that can't be used, with the reason.
        """
        check_choice("quantization", quantization, Quantization)
        placement = checked_device_map(device_map)
        source = source_of(str(model))
        check_files(source)
        with reword_errors(str(model), source):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            check_architecture(str(model), config)
            processor = load_processor(str(model), source, config, plain_template)
            settings = load_settings(config, quantization, placement)
            # Weights that "disk" can't read from the checkpoint are rewritten here; it goes when the model goes.
            offloaded = tempfile.TemporaryDirectory(prefix="cmrm-offload-")
            network, info = AutoModelForImageTextToText.from_pretrained(
                source,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                offload_folder=offloaded.name,
                **settings,
            )
            network.offload_folder = offloaded
            cast_unquantized(network, config, settings["dtype"])
            check_complete(str(model), info["missing_keys"])
            name, revision = name_model(source)
            vlm = cls(network, processor, name=name, revision=revision)
            # A template without a place for an image is known now, not at the first request.
            vlm._laid_out("Hello", vlm.blank("white"))
        return vlm

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, of transformers."""
        return self.network.model

    @property
    def device(self) -> torch.device:
        """The device that takes the token ids."""
        return self.network.device

    @property
    def layers_path(self) -> str:
        """Where the hooked layers are, such as `model.language_model.layers`."""
        return path_of(self.model, self.layers[0]).rpartition(".")[0]

    @property
    def free_memory(self) -> int:
        """Bytes that rows may take, whose caches are spread over devices as the layers are."""
        return free_memory(self.layers)

    def encode(self, prompt: str, image: Image.Image | None) -> Inputs:
        """Lay out one user turn by the chat template and return the model's inputs at batch 1.

        Image tokens and chat markers inside the prompt are neutralised.

        Raises:
            CmrmError: an empty prompt, one too long for the model's context (by how many tokens), or an image that the
                processor does not take.
        """
        check_prompt(prompt)
        text = neutralise(prompt.strip(), self._markers)
        try:
            inputs = self._laid_out(text, image)
        except ValueError as error:
            if image is not None:  # such as one that is far longer than wide
                raise CmrmError(
                    f"The model's processor can't take the picture ({first_sentence(error)}); mend it or leave it out."
                ) from error
            # PaliGemma's processor wants an image: what it makes of one, less the image's tokens, is the text alone.
            inputs = self._text_alone(self._laid_out(text, self.blank("white")))
        self.check_length(inputs["input_ids"].shape[1])
        return inputs

    def _laid_out(self, prompt: str, image: Image.Image | None) -> Inputs:
        parts: list[dict[str, str]] = [{"type": "text", "text": prompt}]
        if image is not None:
            parts.insert(0, {"type": "image"})
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        inputs = self.processor(
            text=[text],
            images=None if image is None else [image],
            # The templates of several models already begin with the BOS token.
            add_special_tokens=not text.startswith(self.tokenizer.bos_token or "\0"),
            return_tensors="pt",
        )
        return {
            key: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in inputs.items()
            if isinstance(value, torch.Tensor) and key != "labels"
        }

    def _text_alone(self, inputs: Inputs) -> Inputs:
        ids = inputs["input_ids"]
        kept = ids[0] != self.network.image_token
        return {key: value[:, kept] for key, value in inputs.items() if value.shape == ids.shape}

    def check_length(self, prompt: int, new: int = 0) -> None:
        """Raise `CmrmError` if a prompt of `prompt` tokens and `new` more don't fit the model's context."""
        check_length(self.context_length, prompt, new)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or [])

    def blank(self, corruption: Corruption, seed: int = 0) -> Image.Image:
        """Return the meaningless image of the method, in the size the model looks at."""
        return blank_image(self.processor, corruption, seed)


def name_model(source: str) -> tuple[str, str]:
    """Return a loaded model's name and its revision: the commit of the hub, or what stands for it in a folder."""
    folder = Path(source)
    if not folder.is_dir():
        config = try_to_load_from_cache(source, "config.json")  # in the folder of its commit
        return source, Path(config).parent.name if isinstance(config, str) else ""
    # A folder of any name is not taken for the pocket model, whose unsteered answers are not veiled.
    name = "pocket" if folder.resolve() == POCKET_FOLDER else LOCAL + folder.resolve().name
    return name, fingerprint(folder)
