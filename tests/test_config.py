"""Settings: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import inspect

import pytest
from support.generate_settings import TARGET, generate

from pacsroute import App, Config, SetupError
from pacsroute.allow import allowed
from pacsroute.config import SETTINGS, check_own
from pacsroute.settings import ServerSettings, Settings


def test_later_setting_wins(tmp_path):
    file = tmp_path / "pacs.toml"
    file.write_text('max_associations = 7\nallow = ["CT1"]\nspool = "spool"\nartim = 5\n')
    app = App("ARCHIVE", max_associations=5, grace=3)
    app.config.from_file(file)
    app.config.from_environment(environment={"PACSROUTE_ARTIM": "2.5", "HOME": "/"})
    config = app.config
    assert (config.max_associations, config.grace, config.artim) == (7, 3.0, 2.5)
    assert config.allow == ("CT1",)
    assert config.spool == str(tmp_path / "spool")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_asociations", 1, "did you mean 'max_associations'"),
        ("xyzzy", 1, "there is no setting 'xyzzy'$"),
        ("port", 70000, "0 to 65,535"),
        ("port", "http", "a whole number"),
        ("port", 1.5, "a whole number"),
        ("port", True, "a whole number"),
        ("artim", "soon", "a number"),
        ("artim", 0, "0.01 or more"),
        ("artim", float("nan"), "a number"),
        ("artim", "nan", "a number"),
        ("artim", "inf", "a number"),
        ("debug", "maybe", "true or false"),
        ("debug", 1, "true or false"),
        ("ae_title", "A" * 17, "use 1 to 16 printable ASCII"),
        ("ae_title", None, "a string"),
        ("called_ae_titles", ["\\"], "backslash"),
        ("allow", 3, "a list of strings"),
        ("allow", ["CTé"], "use 1 to 16 printable ASCII"),
    ],
)
def test_a_wrong_setting_is_an_error_that_says_what_would_be_right(name, value, words):
    with pytest.raises(SetupError, match=words):
        Config().from_mapping({name: value})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("debug", "yes", True),
        ("debug", "off", False),
        ("port", "104", 104),
        ("port", "11_112", 11112),
        ("allow", "CT1, 10.0.0.0/8,", ("CT1", "10.0.0.0/8")),
        ("spool", "", None),
        ("idle_timeout", "1e3", 1000.0),
    ],
)
def test_texts_of_the_environment_are_converted(name, text, value):
    config = Config()
    config.from_environment(environment={f"PACSROUTE_{name.upper()}": text})
    assert getattr(config, name) == value


def test_a_misspelt_variable_is_an_error_and_one_of_the_commands_is_not():
    config = Config()
    config.from_environment(environment={"PACSROUTE_APP": "x", "PACSROUTE_CALLING_AE": "Y"})
    with pytest.raises(SetupError, match=r"PACSROUTE_MAX_ASOCIATIONS.*did you mean"):
        config.from_environment(environment={"PACSROUTE_MAX_ASOCIATIONS": "1"})
    with pytest.raises(SetupError, match="PACSROUTE_PORT: port must be a whole number"):
        config.from_environment(environment={"PACSROUTE_PORT": "x"})
    config.from_environment("MINE_", {"MINE_PORT": "105", "PACSROUTE_PORT": "x"})
    assert config.port == 105


@pytest.mark.parametrize("content", ["max_asociations = 1", "port = ", "port = 'x'", "\xff"])
def test_error_in_a_settings_file_names_the_file(tmp_path, content):
    file = tmp_path / "pacs.toml"
    file.write_text(content, "latin-1")
    with pytest.raises(SetupError, match=r"pacs\.toml: "):
        Config().from_file(file)
    with pytest.raises(SetupError, match=r"none\.toml: No such file"):
        Config().from_file(tmp_path / "none.toml")


def test_every_default_is_a_value_that_could_be_set():
    config = Config()
    for name in SETTINGS:
        setattr(config, name, getattr(config, name))
        assert SETTINGS[name].metadata["purpose"].endswith(".")


def test_a_server_has_settings_of_its_own():
    app = App(grace=1)
    with app.serve(port=0, max_associations=3) as server:
        assert server.config.max_associations == 3
        assert app.config.max_associations == 500
    with pytest.raises(SetupError, match="did you mean"):
        app.serve(port=0, max_asociations=3)


@pytest.mark.parametrize("text", ["", " , "])
def test_empty_allow_variable_admits_no_peer(text):
    config = Config(allow=["CT1"])
    with pytest.raises(SetupError, match="PACSROUTE_ALLOW: allow is empty"):
        config.from_environment(environment={"PACSROUTE_ALLOW": text})
    assert config.allow == ("CT1",)
    config.from_mapping({"allow": []})
    assert config.allow == ()


def test_secret_of_a_wrong_type_is_not_shown():
    with pytest.raises(SetupError, match=r"^tls_key_passphrase must be a string$"):
        Config(tls_key_passphrase=12345)


def test_spool_of_a_wrong_type_in_a_file_is_an_error(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("spool = 5\n")
    with pytest.raises(SetupError, match="spool must be a string, not 5"):
        Config().from_file(file)


def test_the_spaces_around_a_title_in_a_rule_are_not_its_own():
    assert allowed(["CT1 @10.0.0.0/8"], "CT1", "10.0.0.1")


def test_the_types_of_settings_are_those_of_the_config():
    text = TARGET.read_text(encoding="utf-8")
    assert text == generate(), "run: python tests/support/generate_settings.py"


def test_no_type_of_a_setting_is_hidden_by_a_parameter():
    for function, settings in ((App, Settings), (App().serve, ServerSettings)):
        named = inspect.signature(function).parameters.keys()
        assert settings.__annotations__.keys().isdisjoint(named)
        assert settings.__annotations__.keys() | named >= {"port", "host"}
    assert Settings.__annotations__.keys() | {"ae_title"} == SETTINGS.keys()


def test_a_server_takes_its_own_settings_and_no_others():
    for name in SETTINGS:
        if name in ServerSettings.__annotations__ or name in ("host", "port"):
            check_own([name])
        else:
            with pytest.raises(SetupError, match=rf"setting of the app: use App\({name}="):
                check_own([name])
