"""The checks of ./run_all.sh site find what they are for; the site itself is built and checked by that command."""

from kdhelpers.paths import ROOT


def test_links_to_what_is_not_there_and_scripts_from_elsewhere_are_found(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from build_site import broken_links

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="top">b</h1><a href="../a.html#one">a</a><a href="#top">up</a>')
    (tmp_path / "a.html").write_text(
        '<h1 id="one">a</h1><a href="sub/b.html">b</a><a href="sub/b.html#no">b</a><a href="c.html">c</a>'
        '<a href="https://example.org/x">x</a><img src="no.png"><script src="https://example.org/x.js"></script>'
    )
    assert broken_links(tmp_path) == [
        f"a.html: {link}" for link in ("sub/b.html#no", "c.html", "no.png", "https://example.org/x.js")
    ]
