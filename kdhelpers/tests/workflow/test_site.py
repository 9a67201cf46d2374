"""The checks of ./run_all.sh site find what they are for; the site itself is built and checked by that command."""

import pytest

from kdhelpers.paths import ROOT


@pytest.fixture
def build_site(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import build_site

    return build_site


def test_links_to_what_is_not_there_and_scripts_from_elsewhere_are_found(build_site, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="top">b</h1><a href="../a.html#one">a</a><a href="#top">up</a>')
    (tmp_path / "a.html").write_text(
        '<h1 id="one">a</h1><a href="sub/b.html">b</a><a href="sub/b.html#no">b</a><a href="c.html">c</a>'
        '<a href="https://example.org/x">x</a><img src="no.png"><script src="https://example.org/x.js"></script>'
    )
    found = build_site.broken_links(tmp_path)
    assert found == [f"a.html: {link}" for link in ("sub/b.html#no", "c.html", "no.png", "https://example.org/x.js")]
