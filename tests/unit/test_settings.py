"""Settings in layers: which wins, what is refused, what a child is told."""

import msgspec
import pytest

from jetmem import flow
from jetmem.console import configuration
from jetmem.runtime.settings import Common, SettingsError, environment, load, secret


class Oven(msgspec.Struct, frozen=True, kw_only=True):
    heat: float = 180.0
    fan: bool = True
    tray_count: int = 2


SECTIONS = {"": Common, "oven": Oven}


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "jetmem.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_when_nothing_is_said():
    settings = load(SECTIONS, environ={})
    assert settings == {"": Common(), "oven": Oven()}


def test_the_later_layer_wins(toml):
    path = toml('log_level = "error"\nshards = 3\nshard = 1\n[oven]\nheat = 1.0\ntray_count = 7\n')
    environ = {"JETMEM_SHARDS": "4", "JETMEM_SHARD": "2", "JETMEM_OVEN_HEAT": "2.5"}
    settings = load(SECTIONS, environ=environ, toml=path, flags={"shard": 3, "server": None})
    assert settings[""] == Common(log_level="error", shards=4, shard=3)
    assert settings["oven"] == Oven(heat=2.5, tray_count=7)


def test_flags_that_were_not_given_change_nothing():
    environ = {"JETMEM_SERVER": "nats://elsewhere:1"}
    assert load(SECTIONS, environ=environ, flags={"server": None})[""].server == "nats://elsewhere:1"


@pytest.mark.parametrize("text", ["1", "true"])
def test_words_of_the_environment_become_their_types(text):
    assert load(SECTIONS, environ={"JETMEM_OVEN_FAN": text})["oven"].fan is True


def test_names_of_others_are_not_looked_at():
    assert load(SECTIONS, environ={"PATH": "/bin", "JETMEMORY": "x", "jetmem_oven_heat": "hot"})["oven"] == Oven()


@pytest.mark.parametrize("name", ["JETMEM_SPEED", "JETMEM_OVEN_SPEED", "JETMEM_", "JETMEM_OVEN", "JETMEM_OVEN_"])
def test_an_unknown_name_in_the_environment_stops_start_up(name):
    with pytest.raises(SettingsError, match=f"environment: unknown setting {name}$"):
        load(SECTIONS, environ={name: "1"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("speed = 1", "unknown setting speed"),
        ("[oven]\nspeed = 1", "unknown setting oven.speed"),
        ("[fridge]\nheat = 1", "unknown setting fridge"),
        ("oven = 1", "unknown setting oven"),
        ("heat =", "Invalid value"),
    ],
)
def test_a_wrong_file_stops_start_up_and_is_named(toml, text, said):
    path = toml(text)
    with pytest.raises(SettingsError) as caught:
        load(SECTIONS, environ={}, toml=path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_file_that_is_not_utf8_or_not_there_stops_start_up(tmp_path):
    path = tmp_path / "jetmem.toml"
    with pytest.raises(SettingsError, match="No such file"):
        load(SECTIONS, environ={}, toml=path)
    path.write_bytes(b'server = "\xff"')
    with pytest.raises(SettingsError, match="jetmem.toml"):
        load(SECTIONS, environ={}, toml=path)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"JETMEM_OVEN_HEAT": "hot"}, "environment: JETMEM_OVEN_HEAT is hot; it must be a number"),
        ({"JETMEM_OVEN_HEAT": "nan"}, "environment: JETMEM_OVEN_HEAT is nan; it must be a number"),
        ({"JETMEM_OVEN_FAN": ""}, 'environment: JETMEM_OVEN_FAN is ""; it must be true or false'),
        ({"JETMEM_SHARDS": "65"}, "environment: JETMEM_SHARDS is 65; it must be a whole number, 1 to 64"),
        (
            {"JETMEM_LOG_LEVEL": "loud"},
            "environment: JETMEM_LOG_LEVEL is loud; it must be debug, error, info or warning",
        ),
    ],
)
def test_a_value_that_does_not_fit_names_its_variable_and_what_is_allowed(environ, said):
    with pytest.raises(SettingsError) as caught:
        load(SECTIONS, environ=environ)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[index]\ncommit_s = "fast"', "index.commit_s is fast; it must be a number, above 0 and at most 60"),
        ("[index]\ncommit_s = -3", "index.commit_s is -3; it must be a number, above 0 and at most 60"),
        ("[embed]\nbatch_texts = 0", "embed.batch_texts is 0; it must be a whole number, 1 to 1024"),
        ("[embed]\nbatch_texts = true", "embed.batch_texts is true; it must be a whole number, 1 to 1024"),
        ("[persist]\nfull_share = nan", "persist.full_share is nan; it must be a number, above 0 and at most 1"),
        ("[up]\nunhealthy_restart_s = -1", "up.unhealthy_restart_s is -1; it must be a number, 0 to 86400"),
        ("replicas = 0", "replicas is 0; it must be a whole number, 1 to 5"),
    ],
)
def test_a_value_out_of_range_names_its_file_key_and_what_is_allowed(toml, text, said):
    path = toml(text)
    with pytest.raises(SettingsError) as caught:
        configuration.load(path, {})
    assert str(caught.value) == f"{path}: {said}"


def test_every_number_of_every_section_has_a_range():
    """A new setting without one would start a stage that then fails strangely."""
    for section, kind in configuration.sections().items():
        for field in msgspec.inspect.type_info(kind).fields:
            if isinstance(field.type, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                least = field.type.gt if field.type.ge is None else field.type.ge
                assert least is not None and field.type.le is not None, f"{section}.{field.name}"


def test_settings_do_not_change_once_built():
    settings = load(SECTIONS, environ={})
    with pytest.raises(AttributeError):
        settings["oven"].heat = 1.0


def test_the_environment_of_a_child_gives_it_the_same_values():
    common, oven = Common(server="nats://h:1", http_port=9, shards=2), Oven(heat=0.5, tray_count=9)
    told = {**environment("", common), **environment("oven", oven)}
    assert told == {
        "JETMEM_SERVER": "nats://h:1",
        "JETMEM_HTTP_PORT": "9",
        "JETMEM_SHARDS": "2",
        "JETMEM_OVEN_HEAT": "0.5",
        "JETMEM_OVEN_TRAY_COUNT": "9",
    }
    assert load(SECTIONS, environ=told) == {"": common, "oven": oven}


def test_every_section_of_the_flow_has_defaults_and_can_be_told_to_a_child():
    sections = configuration.sections()
    assert set(sections) == {"", "nats", "up", *flow.NAMES}
    defaults = load(sections, environ={})
    for name, values in defaults.items():
        assert environment(name, values) == {}


def test_no_name_in_the_environment_means_two_settings():
    sections = configuration.sections()
    names = [
        "_".join(filter(None, (section, field)))
        for section, kind in sections.items()
        for field in kind.__struct_fields__
    ]
    assert len(names) == len(set(names))


def test_the_data_folder_is_the_flag_the_environment_or_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert configuration.data_root(tmp_path / "a", {"JETMEM_DATA": "/b"}) == tmp_path / "a"
    assert str(configuration.data_root(None, {"JETMEM_DATA": "/b"})) == "/b"
    assert str(configuration.data_root(None, {"XDG_DATA_HOME": "/x"})) == "/x/jetmem"
    assert configuration.data_root(None, {"XDG_DATA_HOME": "relative"}) == tmp_path / ".local" / "share" / "jetmem"
    assert configuration.data_root(None, {}) == tmp_path / ".local" / "share" / "jetmem"


def test_the_settings_file_is_the_given_one_or_that_of_the_data_folder(toml, tmp_path):
    assert configuration.settings_file(None, tmp_path) is None
    path = toml("")
    assert configuration.settings_file(None, tmp_path) == path
    with pytest.raises(SettingsError, match="does not exist"):
        configuration.settings_file(tmp_path / "other.toml", tmp_path)


def test_a_secret_comes_from_a_file_or_a_variable_and_no_error_shows_one(tmp_path):
    (tmp_path / "key").write_text(" sk-1\n")
    assert secret(str(tmp_path / "key"), "") == "sk-1"
    assert secret("", "MY_KEY", {"MY_KEY": "sk-2\n"}) == "sk-2"
    assert secret("", "") == ""
    with pytest.raises(SettingsError, match="MY_KEY is not set"):
        secret("", "MY_KEY", {"OTHER": "sk-3"})
    (tmp_path / "key").write_bytes(b"\xff sk-4")
    with pytest.raises(SettingsError, match="cannot be read") as failed:
        secret(str(tmp_path / "key"), "")
    assert "sk-4" not in str(failed.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("collector:4318", "must begin with http:// or https://"),
        ("grpc://collector:4317", "must begin with http:// or https://"),
        ("http://", "must name a host"),
        ("http://:4318", "must name a host"),
        ("http://collector:port", "must name a host"),
        ("http://collector:99999", "must name a host"),
        ("http://collector:4318 ", "must name a host"),
        ("http://collector:4318/v1/traces", "/v1/traces is added to it"),
    ],
)
def test_a_collector_that_cannot_be_is_refused_with_what_it_must_be(given, said):
    with pytest.raises(SettingsError, match=said) as refused:
        load({"": Common}, environ={"JETMEM_OTLP_ENDPOINT": given})
    assert "JETMEM_OTLP_ENDPOINT" in str(refused.value) and given in str(refused.value)


@pytest.mark.parametrize("given", ["", "http://collector:4318", "https://[::1]:4318/", "http://10.0.0.7"])
def test_a_collector_that_can_be_is_taken(given):
    assert load({"": Common}, environ={"JETMEM_OTLP_ENDPOINT": given})[""].otlp_endpoint == given
