from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lightning_unlearn.publishing._release import Release


def push(
    release: Release,
    repo_id: str,
    *,
    despite: Collection[str] = (),
    private: bool = True,
    revision: str | None = None,
    api: Any = None,
) -> str:
    """Push a prepared folder to the Hugging Face Hub, unless something stands against it.

    Args:
        release: From :func:`prepare`.
        repo_id: Such as ``"you/forgotten"``. It is made if it is not there.
        despite: Names of the objections that are known and accepted: codes of failed gates, such as ``"G2"``, and
            ``"weights"`` where the report is not of these weights. The card tells of them all the same.
        private: Whether a repository that is made is seen by its owners alone.
        revision: A branch, which is made if it is not there. Defaults to ``main``.
        api: A ``huggingface_hub.HfApi`` of your own. Defaults to one with the token of this machine.

    Returns:
        The address.

    Raises:
        ValueError: If something stands against it that ``despite`` does not name, or ``despite`` names something else.
    """
    from huggingface_hub import HfApi

    _refuse_other_names(release, despite)
    _refuse_objections(release, repo_id, despite)
    api = HfApi() if api is None else api
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=release.folder,
        allow_patterns=release.files,
        revision=revision,
        commit_message="Upload an unlearned model and what was found of it",
    )
    return str(address)


def _refuse_other_names(release: Release, despite: Collection[str]) -> None:
    if other := [name for name in despite if name not in release.objections]:
        known = ", ".join(release.objections) or "none"
        raise ValueError(
            f"`despite` should name what stands against publishing. Found {other[0]!r}, and these: {known}."
        )


def _refuse_objections(release: Release, repo_id: str, despite: Collection[str]) -> None:
    standing = {name: reason for name, reason in release.objections.items() if name not in despite}
    if standing:
        reasons = "\n".join(f"- {name}: {reason}." for name, reason in standing.items())
        raise ValueError(
            f"A model that is pushed should have a report without failed gates, of its own weights. Found:\n{reasons}\n"
            f"`{release.folder}` is not pushed to `{repo_id}`. If you know this and want it all the same, name it: "
            f"`despite={list(standing)}` (on the command line `--despite {' '.join(standing)}`)."
        )
