"""What the loaders ask the Hugging Face Hub before they download."""

from collections.abc import Iterable

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from captum_vit.errors import ModelLoadError

OTHER_WEIGHTS = (
    "give weights that are here already by checkpoint=FILE (--checkpoint FILE), or take random ones, whose maps show "
    "the architecture alone, by pretrained=False (--random)"
)


def require(repository: str, files: Iterable[str], spec: str, instead: str) -> None:
    """Make sure that a download can begin, by one request: the libraries themselves try for a minute and more.

    Args:
        repository: its id on the hub.
        files: names of files in it; nothing is asked if one of them stands in the local cache already.
        spec: the model as its user named it.
        instead: what its user can do without the network.
    Raises:
        ModelLoadError: no such repository, no access to it, or no network.
    """
    try:
        if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
            return
        HfApi().model_info(repository, timeout=10)
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{spec!r} needs its owner's permission: ask for it on the page of {repository} at the hub, then log in "
            f"with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelLoadError(f"there is no model {repository!r} on the Hugging Face Hub, or it is private") from error
    except Exception as error:  # every HTTP library and proxy has its own
        raise ModelLoadError(
            f"cannot download {spec!r}: the Hugging Face Hub does not answer ({reason(error)}). Check the network, "
            f"or {instead}"
        ) from error


def reason(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
