"""Small hospitals for the tests: a map, a table, films."""

from pathlib import Path
from textwrap import dedent

from film_folders import write_image

from hf_cxr.data import hospital

MAP = """
    hospital: small
    taxonomy: nih
    table: films.csv
    images: images
    columns: {image: file, patient: patient}
    labels:
      column: finding
      words: {effusion: Effusion, normal: No Finding, bacterial: Bacterial pneumonia}
      ignore: [scoliosis]
    new_nodes: {Bacterial pneumonia: {parent: Pneumonia}}
"""


def write_hospital(folder: Path, text: str = MAP, images: bool = True, **tables: str | bytes) -> Path:
    """Write a map and its tables, and a film for each name in the first column of `films`; the map's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (tables or {"films": rows()}).items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / f"{name}.csv").write_bytes(data)
    if images:
        lines = (folder / "films.csv").read_text("utf-8", errors="replace").splitlines()[1:]
        for i, name in enumerate(dict.fromkeys(line.replace(";", ",").split(",")[0].strip() for line in lines)):
            if name:
                write_image(folder / "images" / (name if "." in name else f"{name}.png"), seed=i)
    path = folder / "small.yaml"
    path.write_text(dedent(text), "utf-8")
    return path


def rows(patients: int = 20) -> str:
    """Two films of each patient: effusion, normal, bacterial and scoliosis by turns."""
    lines = ["file,patient,finding"]
    for patient in range(1, patients + 1):
        word = ("effusion", "normal", "bacterial", "scoliosis")[patient % 4]
        lines += [f"p{patient}_{film}.png,{patient:03d},{word}" for film in range(2)]
    return "\n".join(lines) + "\n"


def read(path: Path, **options):
    """The index without images."""
    return hospital.read_index(path, check_images=False, **{"view": "all", **options})


def findings(index) -> dict[str, dict[str, int | None]]:
    """Film id -> finding -> 1, 0, -1, or None where it is unknown."""
    return {
        film: {name: None if v == -128 else int(v) for name, v in zip(index.names, row, strict=True)}
        for film, row in zip(index.films["id"], index.findings, strict=True)
    }
