from __future__ import annotations

import re

import pytest

import errors
from errors import BridgeError, UnitError


def tree() -> list[str]:
    return (errors.__doc__ or "").partition("BridgeError\n")[2].partition("\n\n")[0].splitlines()


def subclasses(cls: type[BridgeError]) -> set[type[BridgeError]]:
    return {cls}.union(*(subclasses(each) for each in cls.__subclasses__() if each.__module__ == "errors"))


def test_the_drawn_tree_is_the_tree() -> None:
    """A class named in a line is below the first one of the nearest line with less indentation."""
    drawn: set[str] = {"BridgeError"}
    parents = [(0, "BridgeError")]
    for line in tree():
        depth = len(line) - len(line.lstrip("│├└─ "))
        inside = line[depth:]
        named = [
            name
            for name in re.findall(r"\b[A-Z]\w+", inside)
            if isinstance(getattr(errors, name, None), type)
        ]
        assert named, line
        while parents[-1][0] >= depth:
            parents.pop()
        for name in named:
            assert issubclass(getattr(errors, name), getattr(errors, parents[-1][1])), line
        parents.append((depth, named[0]))
        drawn.update(named)
    assert drawn == {cls.__name__ for cls in subclasses(BridgeError)}


@pytest.mark.parametrize("cls", sorted(subclasses(BridgeError), key=str))
def test_each_class_says_when_it_is_raised(cls: type[BridgeError]) -> None:
    assert cls.__doc__


def test_a_units_error_says_unit_code_text_and_advice() -> None:
    error = errors.ModelLoadFailed("llm", -5, "Model loading failed.", "is the model installed?")
    assert str(error) == error.message == "llm -5: Model loading failed. (is the model installed?)"
    assert (error.unit, error.code, error.text) == ("llm", -5, "Model loading failed.")
    assert isinstance(error, UnitError)


def test_errors_name_the_field_at_fault() -> None:
    assert errors.ModelNotFound("q").param == "model"
    assert errors.ModelPathNotFound("q").param is None
    assert errors.QueueFull("full", retry_after=3).retry_after == 3
    assert errors.ConfigError(["a: b", "c: d"]).message == "a: b\nc: d"
