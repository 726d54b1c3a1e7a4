"""Checkpoints with other contents, whose manifest matches them all the same."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from aetool.storage.stored import SHA256


def rewrite(path: Path, state: object = None, model: Mapping[str, Tensor] | None = None, **manifest: object) -> None:
    """Replaces the state, the weights, or keys of the manifest; None among these removes the key."""
    if state is not None:
        torch.save(state, path / "state.pt")
    if model is not None:
        save_file(dict(model), path / "model.safetensors")
    match(path, **manifest)


def match(path: Path, **changes: object) -> None:
    """Gives the manifest the sizes and digests of the files, and other keys."""
    found = json.loads((path / "manifest.json").read_text())
    for name in found["files"]:
        content = (path / name).read_bytes()
        found["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found |= {SHA256: None, **changes}
    kept = {key: value for key, value in found.items() if value is not None}
    (path / "manifest.json").write_text(json.dumps(kept))
