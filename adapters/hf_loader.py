"""Models of Hugging Face transformers, by folder or by id on the hub, with their image processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers.utils import logging

from captum_vit.adapters import hub
from captum_vit.errors import ModelLoadError
from captum_vit.models import LoadedModel, load_weights, read_checkpoint
from captum_vit.preprocessing import read_preprocessing


def load(name: str, *, checkpoint: str | Path | None = None, pretrained: bool = True) -> LoadedModel:
    """An image classifier, or a backbone without a head where the checkpoint is one (as DINO's).

    Args:
        name: a folder that `save_pretrained` wrote (model and image processor), or an id on the hub.
        checkpoint: weights under transformers' names, loaded instead of those in the folder or on the hub; the
            configuration is still read from there.
        pretrained: without a checkpoint, load the weights; else they are random.
    Raises:
        ModelLoadError: no such folder or id, no network, a file missing, weights that do not fit.
    """
    source = _source(name)
    with _quiet():
        config = _from_source(AutoConfig, source, name, trust_remote_code=False)
        processor = _from_source(AutoImageProcessor, source, name, trust_remote_code=False)
        preprocess = read_preprocessing(processor)
        kind = _kind(config)
        if checkpoint is None and pretrained:
            model, info = _from_source(kind, source, name, output_loading_info=True, trust_remote_code=False)
            _check_complete(info, name)
        else:
            model = kind.from_config(config, trust_remote_code=False)
    if checkpoint is not None:
        load_weights(model, read_checkpoint(checkpoint))
    return LoadedModel(
        model.eval(),
        preprocess,
        {} if kind is AutoModel else {int(index): str(label) for index, label in config.id2label.items()},
        multi_label=getattr(config, "problem_type", None) == "multi_label_classification",
        regression=getattr(config, "problem_type", None) == "regression",
    )


def _source(name: str) -> str:
    """The folder, or the id after a look at the hub."""
    if not name:
        raise ModelLoadError("a model is hf/FOLDER or hf/OWNER/NAME, got 'hf' alone")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelLoadError(f"the folder {name!r} holds no config.json: it was not written by save_pretrained")
        if not any((folder / f"{kind}processor_config.json").is_file() for kind in ("pre", "")):
            raise ModelLoadError(
                f"the folder {name!r} holds no preprocessor_config.json: save the image processor there too, "
                f"by processor.save_pretrained({name!r})"
            )
        return str(folder)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelLoadError(f"'hf/{name}': there is no folder {name!r}; a model is hf/FOLDER or hf/OWNER/NAME")
    hub.require(name, ["config.json"], f"hf/{name}", f"there is no folder {name!r}; name one with a copy of the model")
    return name


def _kind(config: Any) -> Any:
    """AutoModel for the checkpoint of a bare backbone, as `architectures` says."""
    architectures = config.architectures or []
    bare = architectures and all(a.endswith("Model") for a in architectures)
    return AutoModel if bare else AutoModelForImageClassification


def _check_complete(info: dict[str, Any], name: str) -> None:
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))  # DINO's are not there
    if missing:
        raise ModelLoadError(
            f"'hf/{name}' is no trained classifier: {len(missing)} of its weights are missing and would be random "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})"
        )


def _from_source(factory: Any, source: str, name: str, **options: Any) -> Any:
    """`from_pretrained`, whose errors fill a screen, with one line instead."""
    try:
        return factory.from_pretrained(source, **options)
    except Exception as error:  # of transformers, the hub, JSON, safetensors and pickle
        what = {AutoConfig: "configuration", AutoImageProcessor: "image processor"}.get(factory, "model")
        raise ModelLoadError(f"cannot load the {what} of 'hf/{name}': {hub.reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' reports, whose contents become errors here; the bars of a download stay."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_downloads = are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # turns off those of the hub too
    (disable_progress_bars if no_downloads else enable_progress_bars)()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if no_downloads else enable_progress_bars)()
