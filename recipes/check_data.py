"""Is this data usable? Check a hospital's films and tables before anything is trained on or judged by them.

    python recipes/check_data.py my_hospital.yaml
    python recipes/check_data.py my_hospital.yaml --base runs/nih128 --base_data_dir ../shared/data/nih128 \\
        --output_dir check
    python recipes/check_data.py --dataset nih --data_dir ../shared/data/nih128 --output_dir check

The page says how many films, patients and findings there are; which films are missing, unreadable, blank, inverted or
saturated, the same as another, or nearly, and under two patients or in two splits; which labels cannot be; what the
tables have wrong, all of it. With `--base`, a model, it also says how common its nodes are here and where it was
trained, and which films do not look like frontal chest films. `--view all` takes lateral films for wanted.

It is printed, and with `--output_dir` written as `check.html` (one file with its figures), `check.md` and `check.json`.
Nothing on it names a patient: films are told by table and row. `--show_cells true` prints, on the terminal alone, what
wrong cells hold.

Exit code: 0 usable, 1 usable with warnings, 2 not usable. What cannot be checked at all (no such table or base, say)
ends with an error and 3.
"""

import sys
from pathlib import Path

from hf_cxr.data_check import check, check_folder, page_text, parse_check_settings, write_check
from hf_cxr.errors import run_recipe


def main() -> None:
    """Parse, check, print, write."""
    settings = parse_check_settings(description=__doc__)
    folder = Path(settings.output_dir) if settings.output_dir else None
    if folder is not None:
        check_folder(folder, settings.overwrite)
    found, cells = check(settings)
    print(page_text(found))
    if settings.show_cells:
        print("Not for showing around:", *(cells or ["no problem quotes a cell"]), sep="\n")
    if folder is not None:
        write_check(folder, found, overwrite=settings.overwrite)
        for name in ("check.html", "check.md", "check.json"):
            print(f"{name:12} {(folder / name).resolve()}")
    print(f"{found.title}: {found.verdict}")
    sys.exit(found.exit_code)


if __name__ == "__main__":
    run_recipe(main, failed=3)
