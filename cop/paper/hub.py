"""`save_pretrained`, `from_pretrained` and `push_to_hub` for the networks: a folder, or a repository of the Hugging Face hub."""

import dataclasses
import inspect
import json
import os
import typing
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import save

from cop.files import write
from cop.paper.kl16 import check_state, read_state_dict
from cop.settings import with_fields

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARD = """---
{{ card_data }}
---

A `{{ name }}` of [cop](https://arxiv.org/abs/2511.22281), a companion to *The Collapse of Patches*.

```python
from {{ module }} import {{ name }}

model = {{ name }}.from_pretrained("OWNER/NAME")
```
"""


class Pretrained(
    PyTorchModelHubMixin,
    library_name="cop",
    license="mit",
    paper_url="https://arxiv.org/abs/2511.22281",
    model_card_template=CARD,
):
    """A network that is stored as its weights and `config.json`, the arguments of its constructor.

    Of `huggingface_hub`'s mixin it keeps `save_pretrained(folder)` and `push_to_hub(repo_id)`. Loading is stricter: every weight
    has to be there and of its shape, and nothing is unpickled.
    """

    def __new__(cls, *args, **kwargs) -> Self:
        """Note the arguments; the mixin's own record would leave out what is not JSON."""
        self = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs).arguments
        self.arguments = {k: v for k, v in list(given.items())[1:] if not isinstance(v, torch.Generator)}
        return self

    def stored_config(self) -> dict:
        """What of the arguments `config.json` holds."""
        return {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in self.arguments.items()}

    def generate_model_card(self, *args, **kwargs):
        """The mixin's card, for this class."""
        names = {"name": type(self).__name__, "module": type(self).__module__}
        return super().generate_model_card(*args, **names | kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {"architectures": [type(self).__name__]} | self.stored_config()
        try:
            text = json.dumps(config, indent=2, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"{type(self).__name__} was built with an argument that config.json cannot hold: {error}") from None
        state = {k: v.contiguous().cpu() for k, v in self.state_dict().items()}
        write(save_directory / CONFIG, f"{text}\n".encode())
        write(save_directory / WEIGHTS, save(state, {"format": "pt"}))

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, *, device: str = "cpu", **download) -> Self:
        """The network that `save_pretrained` or `push_to_hub` stored, on `device` and in evaluation mode.

        source: a folder, or OWNER/NAME on the Hugging Face hub, with `download` as options of `hf_hub_download` (`revision`,
        `token`, `local_files_only`). Raises FileNotFoundError for what is not there, ValueError for another kind of network and
        for a configuration or weights that are damaged or do not fit.
        """
        config = read_config(source, **download)
        found = config.pop("architectures", [cls.__name__])
        if found != [cls.__name__]:
            raise ValueError(f"{source} holds a network of the kind {found}; expected {cls.__name__}")
        kinds = typing.get_type_hints(cls.__init__)
        try:
            for name, value in config.items():
                if dataclasses.is_dataclass(kinds.get(name)):
                    config[name] = with_fields(kinds[name](), value.items())
            inspect.signature(cls.__init__).bind(None, **config)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{source}: {CONFIG} does not describe a {cls.__name__}: {error}") from None
        state = read_state_dict(_file(source, WEIGHTS, download))
        with torch.random.fork_rng():  # the weights that the constructor draws are replaced
            model = cls(**config)
        check_state(model, state, cls.__name__)
        model.load_state_dict(state)
        return model.to(device).eval()


class PretrainedViT(Pretrained):
    """The same for a subclass of timm's VisionTransformer, whose head and image size can change after it is built."""

    def stored_config(self) -> dict:
        """As they are now."""
        now = {"img_size": self.patch_embed.img_size, "num_classes": self.num_classes, "global_pool": self.global_pool}
        return super().stored_config() | now


def read_config(source: str | os.PathLike, **download) -> dict:
    """`config.json` of a stored network: `architectures` and the arguments of the constructor. Raises as `from_pretrained`."""
    file = _file(source, CONFIG, download)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds {type(config).__name__}; expected the arguments of a network by name")
    return config


def _file(source: str | os.PathLike, name: str, download: dict) -> Path:
    """One of the files of a folder or of a repository of the hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; expected a folder that save_pretrained wrote")
        return folder / name
    if not isinstance(source, str) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no folder {source}; expected one that save_pretrained wrote, or OWNER/NAME on the Hugging Face hub")
    try:
        return Path(hf_hub_download(source, name, **download))
    except Exception as error:  # the library raises a dozen types, all of them long
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(f"no folder {source}, and no {name} of it from the Hugging Face hub: {reason}") from error
