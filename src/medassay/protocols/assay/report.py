"""placeholder"""
from pathlib import Path
from typing import Any
from medassay.files import write_json
def write(directory: Path, results: dict[str, Any], examples: Any, gallery: Any) -> None:
    import torch
    write_json(directory / "assay.json", results)
    torch.save({"examples": vars(examples), "gallery": vars(gallery)}, directory / "pictures.pt")
