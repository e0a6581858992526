"""What README and docstrings say is so."""

import inspect
import re
from pathlib import Path

import pytest

import sklearn_cnnlstm
from sklearn_cnnlstm import CNNLSTMClassifier, CNNLSTMRegressor
from sklearn_cnnlstm.__main__ import main

README = Path(__file__).parents[1] / "README.md"


def test_readme_code_blocks_run():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL))
    assert "CNNLSTMClassifier" in code
    exec(compile(code, str(README), "exec"), {})


def test_readme_command_for_a_users_file_parses(capsys):
    arguments = re.search(r"python -m sklearn_cnnlstm (--data .*)", README.read_text())[1].split()
    arguments[1] = "absent.npz"
    assert main(arguments) == 2
    assert "absent.npz" in capsys.readouterr().err


@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_documented_parameters_and_defaults_are_those_of_the_signature(cls):
    section = cls.__doc__.partition("Parameters\n----------\n")[2].partition("\nAttributes\n")[0]
    documented = dict(re.findall(r"^(\w+) : .*default=(.*)$", section, flags=re.MULTILINE))
    signature = inspect.signature(cls).parameters
    assert set(documented) == set(signature)
    for name, default in documented.items():
        assert eval(default) == signature[name].default, name


@pytest.mark.parametrize("cls", [CNNLSTMClassifier, CNNLSTMRegressor])
def test_public_methods_document_what_they_take_and_return(cls):
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_") or not method.__module__.startswith("sklearn_cnnlstm"):
            continue
        doc = inspect.getdoc(method)
        for parameter in list(inspect.signature(method).parameters)[1:]:
            assert re.search(rf"^(.*, )?{parameter}(, .*)? : ", doc, flags=re.MULTILINE), (name, parameter)
        assert "Returns\n-------" in doc, name


def test_public_surface_is_the_two_estimators():
    assert set(sklearn_cnnlstm.__all__) == {"CNNLSTMClassifier", "CNNLSTMRegressor", "__version__"}
