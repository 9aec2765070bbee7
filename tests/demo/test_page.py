"""What the page's own functions give, without a server."""

from hf_cxr.demo import build
from tests.demo.films import phantom, put
from tests.demo.test_result import Page


def functions(page):
    return {function.name: function.fn for function in page.fns.values()}


def given(path):
    return {"path": str(path), "orig_name": path.name}


def test_a_failure_tells_nothing_of_the_film(read, tmp_path, monkeypatch, caplog):
    path = put(phantom(), tmp_path / "Müller, Anna.png")

    def fail(*_, **__):
        raise ValueError(f"cannot read {path}")

    show = functions(build(read))["show_upload"]
    monkeypatch.setattr(type(read), "__call__", fail)
    html, cleared = show(given(path))
    assert "The demo failed on this film" in html
    assert cleared is None
    assert "ValueError" in caplog.text  # and where
    assert "test_page.py" in caplog.text
    for said in (caplog.text, html):
        assert path.name not in said
    assert not tmp_path.exists()


def test_passes_of_dropout_may_be_left_out(read, tmp_path):
    for passes, shown in ((0, False), (5, True)):
        folder = tmp_path / str(passes)
        folder.mkdir()
        html, _ = functions(build(read, dropout_passes=passes))["show_upload"](given(put(phantom(), folder / "a.png")))
        assert ("±" in Page(html).rows[0]["probability"]) == shown
        assert ("over 5 passes of Monte Carlo dropout" in html) == shown


def test_names_of_files_are_escaped(read, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    html, _ = functions(build(read))["show_upload"](given(put(phantom(), tmp_path / name)))
    assert "&lt;img src=x" in html
    assert "<img src=x" not in html


def test_nothing_given(read):
    html, _ = functions(build(read))["show_upload"](None)
    assert "No file came" in html
