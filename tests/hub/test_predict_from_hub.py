"""Films of a data set of the Hub, read by a model of the Hub."""

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Picture

from hf_cxr.models import CXRImageProcessor
from tests.hub.client import run
from tests.hub.server import OWNER
from tests.predict.films import film

PREDICT = """
    import json, runpy, sys
    sys.argv = ["predict.py", *sys.argv[1:]]
    try:
        runpy.run_path("recipes/predict.py", run_name="__main__")
        ended = None
    except SystemExit as stopped:
        ended = str(stopped.code)
    print(json.dumps(ended))
"""


@pytest.mark.slow
def test_films_and_model_by_name(hub, online, make_model, tmp_path):
    online()
    model = make_model()
    model.push_to_hub("clinic/cxr", private=True)
    CXRImageProcessor.for_model(model.config).push_to_hub("clinic/cxr")
    features = Features({"image": Image(), "patient": Value("string")})
    rows = {"image": [Picture.fromarray(film(i)) for i in range(5)], "patient": list("aabbc")}
    DatasetDict({"test": Dataset.from_dict(rows, features=features)}).push_to_hub("clinic/films", private=True)
    environment = hub.environment(OWNER, home=tmp_path / "home")
    words = ["--model", "clinic/cxr", "--num_workers", "0", "--output_dir"]
    assert run(PREDICT, environment, *words, str(tmp_path / "out"), "hf://datasets/clinic/films") is None
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.patient) == list("aabbc")
    assert table.error.isna().all()
    for name, word in {"clinic/none": "cannot be fetched", "clinic/cxr@v9": "cannot be fetched"}.items():
        ended = run(PREDICT, environment, *words, str(tmp_path / "no"), f"hf://datasets/{name}")
        assert ended.startswith(f"predict.py: SourceError: hf://datasets/{name}: {word}")
