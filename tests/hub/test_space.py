"""The Space's files start the demo by themselves: the package inside, what to install, which model."""

import os
import subprocess
import sys

import pytest
import yaml

from hf_cxr.hub.space import space_target, stage_space
from hf_cxr.hub.upload import upload

START = """
import sys
sys.path.insert(0, sys.argv[1])
import hf_cxr
assert hf_cxr.__file__.startswith(sys.argv[1]), hf_cxr.__file__
from hf_cxr.demo import serving
seen = []
serving.run = seen.append
exec(open(sys.argv[1] + "/app.py").read())
print(seen[0].model, seen[0].host)
"""


def test_a_space_holds_all_it_needs(tmp_path):
    files = stage_space(tmp_path, "clinic/cxr")
    assert {"app.py", "README.md", "requirements.txt", "hf_cxr/demo/__main__.py", "hf_cxr/taxonomies/nih.yaml"} <= set(
        files
    )
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]
    about = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert about["models"] == ["clinic/cxr"]
    assert about["sdk"] == "gradio"
    wanted = (tmp_path / "requirements.txt").read_text()
    assert "transformers>=" in wanted
    assert "pydicom>=" in wanted
    assert "pytest" not in wanted
    assert "gradio" not in wanted


@pytest.mark.slow
def test_its_app_starts_the_demo_from_its_own_source(tmp_path):
    stage_space(tmp_path, "clinic/cxr")
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["clinic/cxr", "0.0.0.0"], done.stderr


def test_a_space_is_uploaded_privately_and_again(hub, online, tmp_path):
    online()
    stage_space(tmp_path, "clinic/cxr")
    target = space_target("clinic/demo", private=True)
    assert upload(tmp_path, target, "Demo").changed
    assert not upload(tmp_path, target, "Demo").changed
    repo = hub.repo("clinic/demo", "spaces")
    assert repo.private
    assert repo.sdk == "gradio"
    assert b"clinic/cxr" in repo.files()["app.py"]
