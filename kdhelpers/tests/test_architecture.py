"""Who may import whom: the contracts in pyproject.toml."""

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from kdhelpers.paths import ROOT


def test_the_import_contracts_hold(capsys):
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
