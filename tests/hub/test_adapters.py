"""An adapter goes to the hub without its base, and comes back as the adapted model."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageClassification

from hf_cxr.hub.publish import RunError, publish, stage
from hf_cxr.hub.upload import Target
from hf_cxr.loading import ModelError, load_model, load_processor
from hf_cxr.verification import FILE, Verification, identity, verify_with
from tests.hub.client import run
from tests.hub.server import OWNER

BASE, NAME = "clinic/cxr-base", "clinic/cxr-adapted"
LOAD = """
    import json, sys
    import torch
    from hf_cxr.loading import load_model, load_processor
    from hf_cxr.verification import identity, verify_with
    model = load_model(sys.argv[1])
    said = verify_with(model, load_processor(sys.argv[1]))
    print(json.dumps([said.probability.tolist(), model.config.operating_points["split"]]))
"""


def adapt(run, into):
    """A run's folder as one of adaptation would be: weights of the adapter, its own thresholds, report and films."""
    model = AutoModelForImageClassification.from_pretrained(run, dtype=torch.float32)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=r".*\.conv2$", modules_to_save=["classifier"], init_lora_weights=False)
    )
    with torch.no_grad():
        adapted.base_model.model.head.trunk.classifier.modules_to_save["default"].bias += 0.3
    into.mkdir()
    adapted.save_pretrained(into)
    config = json.loads((run / "config.json").read_text())
    config["operating_points"]["thresholds"]["Mass"] = 0.77
    (into / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config.json", "eval_report.json", "run.yaml", "predictions_test.csv"):
        shutil.copyfile(run / name, into / name)
    (into / "README.md").unlink(missing_ok=True)  # PEFT's empty card
    merged = load_model(into)
    verify_with(merged, load_processor(into)).save(into)
    report = json.loads((into / "eval_report.json").read_text())
    report["provenance"]["model"] = identity(merged)
    (into / "eval_report.json").write_text(json.dumps(report))
    return into


@pytest.fixture
def adapted(finished, tmp_path):
    return adapt(finished, tmp_path / "adapted")


def test_an_adapter_is_loaded_with_its_own_config(finished, adapted):
    base, model = load_model(finished), load_model(adapted)
    assert model.config.operating_points["thresholds"]["Mass"] == 0.77
    assert base.config.operating_points["thresholds"]["Mass"] != 0.77
    assert not any("lora" in name for name, _ in model.named_parameters())
    stored, plain = Verification.load(adapted), Verification.load(finished)
    assert (stored.probability - plain.probability).abs().max() > 0.01
    content = json.loads((adapted / "config.json").read_text())
    content["id2label"] = {"0": "Abnormal"}
    content["label2id"] = {"Abnormal": 0}
    content.update(node_kinds={"Abnormal": "gate"}, parents={}, operating_points=None, calibration=None)
    (adapted / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"its base .* is not what was adapted: labels begin with \['Abnormal'\]"):
        load_model(adapted)


@pytest.mark.slow
def test_an_adapter_there_and_back(hub, online, finished, adapted, tmp_path):
    online()
    staging = [tmp_path / f"staging{i}" for i in range(3)]
    for folder in staging:
        folder.mkdir()
    with pytest.raises(RunError, match=r"the adapter's base is the folder .* name it by --base"):
        stage(adapted, staging[0], NAME)
    publish(finished, staging[1], Target(BASE, FILE))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.environment(OWNER, home=tmp_path / "home").items():
            patch.setenv(name, value)  # of the process that verifies
        publish(adapted, staging[2], Target(NAME, FILE), base=BASE)
    files = hub.repo(NAME).files()
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == BASE
    assert config["revision"] == hub.repo(BASE).at("main").sha
    got, split = run(LOAD, hub.environment(OWNER, home=tmp_path / "elsewhere"), NAME)
    assert torch.equal(torch.tensor(got), Verification.load(adapted).probability)
    assert split == "validation"
