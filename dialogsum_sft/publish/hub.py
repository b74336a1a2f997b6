"""Push a finished folder to the hub, without pickles, checkpoints and hidden files."""

from pathlib import Path

from dialogsum_sft import InputError

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of httpx, or of what replaces it

# Pickles (training_args.bin can hold a token, optimizer.pt is of no use to others) and unfinished files.
NEVER_PUSHED = ["*.bin", "*.pt", "*.pth", "*.pkl", "checkpoint-*", ".*", "*/.*"]


def create_repo(name: str, private: bool | None = None) -> str:
    """Create the model repository `name` unless it exists, and return its full name.

    Call it before training, so that a missing right fails early. The token is that of `hf auth login` or HF_TOKEN.
    Raises InputError when the hub cannot be reached or written to.
    """
    try:
        repo: str = HfApi().create_repo(name, private=private, exist_ok=True).repo_id
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"cannot push to the hub as {name!r}: {_reason(error)}; log in with `hf auth login` (or set HF_TOKEN), or "
            "leave out push_to_hub"
        ) from error
    return repo


def upload(folder: Path, repo: str, message: str, revision: str | None = None) -> str:
    """Push the files of `folder` as one commit and return its URL. Raises InputError when that fails."""
    try:
        commit = HfApi().upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, revision=revision, ignore_patterns=NEVER_PUSHED
        )
    except (OSError, ValueError, HTTPError) as error:
        raise InputError(
            f"cannot push to {repo}: {_reason(error)}; all is saved in {folder}: push it with `hf upload {repo} "
            f"{folder}`"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
