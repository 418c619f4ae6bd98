"""The table of methods, and the door for others."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import zoo

from editguard.errors import ConfigurationError, InvalidSettings, UnknownMethod
from editguard.methods import EditMethod, MethodInfo, create, default_methods, methods, registry


@pytest.fixture
def other_packages(monkeypatch: pytest.MonkeyPatch):
    """Pretend that packages with these entry points are installed."""

    def pretend(**points: str) -> None:
        found = [EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda **_: found)
        registry._from_other_packages.cache_clear()

    yield pretend
    registry._from_other_packages.cache_clear()


class Foreign:
    """Do nothing, well documented."""

    name = "foreign"
    batches = True

    def prepare(self, model, data):
        pass

    def apply(self, edited, requests):
        return edited


FOREIGN_INFO = MethodInfo(
    name="described",
    target=f"{__name__}:Foreign",
    family="other",
    changes="nothing",
    batches=True,
    prepares="nothing",
    source="this test",
    default=True,
)


def test_every_built_in_method_loads_has_its_registered_name_and_follows_the_protocol() -> None:
    for name, info in methods().items():
        assert info.load().name == name == info.name
        assert isinstance(create(name), EditMethod)
        assert info.as_dict()["source"]
        assert info.settings_type is not None


def test_listing_the_methods_imports_neither_torch_nor_transformers() -> None:
    heavy = "{'torch', 'transformers', 'sklearn'}"
    code = f"import sys, editguard.methods as m; m.methods(); m.default_methods(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownMethod, match="Did you mean 'rome'"):
        create("rom")


def test_methods_of_other_packages_join_by_class_or_by_description(
    other_packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "a_foreign_package", sys.modules[__name__])
    other_packages(foreign="a_foreign_package:Foreign", described="a_foreign_package:FOREIGN_INFO")
    found = methods()
    assert found["foreign"].batches
    assert found["foreign"].source == "Do nothing, well documented."
    assert found["described"] is FOREIGN_INFO
    assert "described" in default_methods()
    assert isinstance(create("foreign", model=zoo.tiny("gpt2")), Foreign)
    with pytest.raises(InvalidSettings, match="no settings"):
        create("foreign", {"layer": 1})


def test_a_broken_package_or_a_taken_name_costs_a_warning_not_the_run(other_packages) -> None:
    other_packages(broken="no_such_module:Thing", rome="a_foreign_package:Foreign", odd="json:dumps")
    with pytest.warns(UserWarning, match="cannot be loaded|taken") as said:
        found = methods()
    assert {"broken", "odd"}.isdisjoint(found)
    assert found["rome"].target.startswith("editguard.")
    assert len(said) == 3


def test_a_description_that_leads_nowhere_is_one_clear_error() -> None:
    lost = MethodInfo(
        name="lost", target="nowhere:Lost", family="other", changes="", batches=False, prepares="", source=""
    )
    with pytest.raises(ConfigurationError, match="nowhere:Lost"):
        lost.load()
